// The .tflite file of speech_commands-ds_cnn_l-search, for TensorFlow Lite Micro.
#ifndef MODEL_SPEECH_COMMANDS_DS_CNN_L_SEARCH_H_
#define MODEL_SPEECH_COMMANDS_DS_CNN_L_SEARCH_H_

#ifdef __cplusplus
extern "C" {
#endif

extern const unsigned char model_speech_commands_ds_cnn_l_search[];  // aligned to 16 bytes
extern const unsigned int model_speech_commands_ds_cnn_l_search_bytes;

#ifdef __cplusplus
}
#endif

#endif  // MODEL_SPEECH_COMMANDS_DS_CNN_L_SEARCH_H_
