//! \file
//! What TensorRT asks a plugin library for. A further op adds its creators to the table.

#include "depthwiseResidualPlugin.h"
#include "nmsPlugin.h"
#include "retentionPlugin.h"
#include "roiAlignPlugin.h"

#include <NvInferRuntime.h>

#include <vector>

#define RMT_EDGE_EXPORT __attribute__((visibility("default")))

namespace
{

std::vector<nvinfer1::IPluginCreatorInterface*> makeCreators()
{
    std::vector<nvinfer1::IPluginCreatorInterface*> creators{new rmt_edge::RetentionPluginCreator};
    for (rmt_edge::DepthwiseResidualForm const& form : rmt_edge::kDEPTHWISE_RESIDUAL_FORMS)
    {
        creators.push_back(new rmt_edge::DepthwiseResidualPluginCreator{form});
    }
    creators.push_back(new rmt_edge::NmsPluginCreator);
    creators.push_back(new rmt_edge::RoiAlignPluginCreator);
    return creators;
}

} // namespace

extern "C"
{

    //! \return The creators of all ops of this library; static storage.
    RMT_EDGE_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& nbCreators)
    {
        // Never freed: TensorRT's registry, which keeps the pointers, may outlive this library's static destructors.
        static auto const* const creators = new std::vector<nvinfer1::IPluginCreatorInterface*>{makeCreators()};
        nbCreators = static_cast<int32_t>(creators->size());
        return creators->data();
    }

    //! TensorRT hands over its logger; its binary interface is not the same in every release, so it is left alone.
    RMT_EDGE_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* /*finder*/) {}

} // extern "C"
