// The .tflite file of fashion_mnist, for TensorFlow Lite Micro.
#ifndef MODEL_FASHION_MNIST_H_
#define MODEL_FASHION_MNIST_H_

#ifdef __cplusplus
extern "C" {
#endif

extern const unsigned char model_fashion_mnist[];  // aligned to 16 bytes
extern const unsigned int model_fashion_mnist_bytes;

#ifdef __cplusplus
}
#endif

#endif  // MODEL_FASHION_MNIST_H_
