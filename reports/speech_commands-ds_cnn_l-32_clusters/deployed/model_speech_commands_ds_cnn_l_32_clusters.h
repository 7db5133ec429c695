// The .tflite file of speech_commands-ds_cnn_l-32_clusters, for TensorFlow Lite Micro.
#ifndef MODEL_SPEECH_COMMANDS_DS_CNN_L_32_CLUSTERS_H_
#define MODEL_SPEECH_COMMANDS_DS_CNN_L_32_CLUSTERS_H_

#ifdef __cplusplus
extern "C" {
#endif

extern const unsigned char model_speech_commands_ds_cnn_l_32_clusters[];  // aligned to 16 bytes
extern const unsigned int model_speech_commands_ds_cnn_l_32_clusters_bytes;

#ifdef __cplusplus
}
#endif

#endif  // MODEL_SPEECH_COMMANDS_DS_CNN_L_32_CLUSTERS_H_
