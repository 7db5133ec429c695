// Test examples of speech_commands-ds_cnn_l-search, and what LiteRT's reference kernels return for each.
#ifndef MODEL_SPEECH_COMMANDS_DS_CNN_L_SEARCH_TEST_VECTORS_H_
#define MODEL_SPEECH_COMMANDS_DS_CNN_L_SEARCH_TEST_VECTORS_H_

#include <stdint.h>

#define MODEL_SPEECH_COMMANDS_DS_CNN_L_SEARCH_EXAMPLES 10
#define MODEL_SPEECH_COMMANDS_DS_CNN_L_SEARCH_INPUT_0_SIZE 490  // values per example; shape 49 x 10 x 1
#define MODEL_SPEECH_COMMANDS_DS_CNN_L_SEARCH_OUTPUT_SIZE 12  // values per example; shape 12

#ifdef __cplusplus
extern "C" {
#endif

extern const int8_t model_speech_commands_ds_cnn_l_search_input_0[];
extern const int8_t model_speech_commands_ds_cnn_l_search_output[];

#ifdef __cplusplus
}
#endif

#endif  // MODEL_SPEECH_COMMANDS_DS_CNN_L_SEARCH_TEST_VECTORS_H_
