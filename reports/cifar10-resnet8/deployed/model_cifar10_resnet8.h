// The .tflite file of cifar10-resnet8, for TensorFlow Lite Micro.
#ifndef MODEL_CIFAR10_RESNET8_H_
#define MODEL_CIFAR10_RESNET8_H_

#ifdef __cplusplus
extern "C" {
#endif

extern const unsigned char model_cifar10_resnet8[];  // aligned to 16 bytes
extern const unsigned int model_cifar10_resnet8_bytes;

#ifdef __cplusplus
}
#endif

#endif  // MODEL_CIFAR10_RESNET8_H_
