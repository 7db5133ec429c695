// Test examples of speech_commands-ds_cnn_l-32_clusters, and what LiteRT's reference kernels return for each.
#ifndef MODEL_SPEECH_COMMANDS_DS_CNN_L_32_CLUSTERS_TEST_VECTORS_H_
#define MODEL_SPEECH_COMMANDS_DS_CNN_L_32_CLUSTERS_TEST_VECTORS_H_

#include <stdint.h>

#define MODEL_SPEECH_COMMANDS_DS_CNN_L_32_CLUSTERS_EXAMPLES 10
#define MODEL_SPEECH_COMMANDS_DS_CNN_L_32_CLUSTERS_INPUT_0_SIZE 490  // values per example; shape 49 x 10 x 1
#define MODEL_SPEECH_COMMANDS_DS_CNN_L_32_CLUSTERS_OUTPUT_SIZE 12  // values per example; shape 12

#ifdef __cplusplus
extern "C" {
#endif

extern const int8_t model_speech_commands_ds_cnn_l_32_clusters_input_0[];
extern const int8_t model_speech_commands_ds_cnn_l_32_clusters_output[];

#ifdef __cplusplus
}
#endif

#endif  // MODEL_SPEECH_COMMANDS_DS_CNN_L_32_CLUSTERS_TEST_VECTORS_H_
