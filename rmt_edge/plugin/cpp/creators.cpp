//! \file
//! What TensorRT asks a plugin library for. A further op adds its creator to the table.

#include "retentionAttributes.h"

#include <NvInferRuntime.h>

#define RMT_EDGE_EXPORT __attribute__((visibility("default")))

extern "C"
{

    //! \return The creators of all ops of this library; static storage.
    RMT_EDGE_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& nbCreators)
    {
        static rmt_edge::RetentionPluginCreator retention;
        static nvinfer1::IPluginCreatorInterface* const creators[] = {&retention};
        nbCreators = static_cast<int32_t>(sizeof(creators) / sizeof(creators[0]));
        return creators;
    }

    //! TensorRT hands over its logger; its binary interface is not the same in every release, so it is left alone.
    RMT_EDGE_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* /*finder*/) {}

} // extern "C"
