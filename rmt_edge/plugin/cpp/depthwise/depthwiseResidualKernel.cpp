#include "depthwiseResidualKernel.h"

#include "cudaContext.h"
#include "depthwiseResidualLaunch.h"
#include "diagnostics.h"

#include <string>
#include <vector>

namespace
{

//! \return kSUCCESS, or kFAILURE after reporting that the form has no such channels.
int32_t configFrom(bool hasResidual, bool hasNorm, bool isInt8, int32_t channels, int32_t elementType,
    rmt_edge::DepthwiseResidualConfig& config)
{
    for (rmt_edge::DepthwiseResidualForm const& form : rmt_edge::kDEPTHWISE_RESIDUAL_FORMS)
    {
        if (form.hasResidual == hasResidual && form.hasNorm == hasNorm && form.isInt8 == isInt8
            && !form.isScaled)
        {
            config = {form, channels, elementType, false};
        }
    }
    std::string const problem = rmt_edge::depthwiseResidualChannelsProblem(config.form, channels);
    if (!problem.empty())
    {
        return rmt_edge::reportError(std::string{config.form.name} + ": " + problem);
    }
    if (elementType != RMT_EDGE_FLOAT32 && elementType != RMT_EDGE_FLOAT16)
    {
        return rmt_edge::reportError(std::string{config.form.name} + ": element type " + std::to_string(elementType)
            + " is unknown; known: 0 (float32), 1 (float16).");
    }
    return rmt_edge::kSUCCESS;
}

//! Load the kernels of a configuration for as long as the scope's context lives.
int32_t loadIn(rmt_edge::ContextScope const& scope, rmt_edge::DepthwiseResidualConfig const& config,
    std::vector<rmt_edge::DepthwiseResidualTactic>& tactics)
{
    return scope.check() == rmt_edge::kSUCCESS ? rmt_edge::loadDepthwiseResidual(config, tactics) : rmt_edge::kFAILURE;
}

} // namespace

extern "C"
{

    int32_t rmt_depthwise_residual_load(
        int32_t hasResidual, int32_t hasNorm, int32_t isInt8, int32_t channels, int32_t elementType)
    {
        return rmt_edge::guarded<int32_t>(rmt_edge::kFAILURE,
            [&]() -> int32_t
            {
                rmt_edge::DepthwiseResidualConfig config;
                std::vector<rmt_edge::DepthwiseResidualTactic> tactics;
                if (configFrom(hasResidual != 0, hasNorm != 0, isInt8 != 0, channels, elementType, config)
                    != rmt_edge::kSUCCESS)
                {
                    return rmt_edge::kFAILURE;
                }
                rmt_edge::ContextScope const scope;
                return loadIn(scope, config, tactics);
            });
    }

    int32_t rmt_depthwise_residual_launch(void const* x, void const* weight, void const* bias, void const* residual,
        void const* normWeight, void const* normBias, void* out, void* norm, int32_t batch, int32_t height,
        int32_t width, int32_t channels, int32_t elementType, float epsilon, float outputScale, int32_t tactic,
        void* stream)
    {
        return rmt_edge::guarded<int32_t>(rmt_edge::kFAILURE,
            [&]() -> int32_t
            {
                bool const hasNorm = normWeight != nullptr;
                bool const isInt8 = outputScale > 0.0F;
                rmt_edge::DepthwiseResidualConfig config;
                std::vector<rmt_edge::DepthwiseResidualTactic> tactics;
                if (configFrom(residual != nullptr, hasNorm, isInt8, channels, elementType, config)
                    != rmt_edge::kSUCCESS)
                {
                    return rmt_edge::kFAILURE;
                }
                std::string problem = isInt8 ? rmt_edge::depthwiseResidualScaleProblem(elementType, outputScale) : "";
                if (!(outputScale >= 0.0F))
                {
                    problem = "output_scale must be positive, or 0 for no quantisation.";
                }
                else if (hasNorm && !(epsilon > 0.0F))
                {
                    problem = "epsilon must be positive.";
                }
                if (!problem.empty())
                {
                    return rmt_edge::reportError(std::string{config.form.name} + ": " + problem);
                }
                rmt_edge::ContextScope const scope;
                if (loadIn(scope, config, tactics) != rmt_edge::kSUCCESS)
                {
                    return rmt_edge::kFAILURE;
                }
                return rmt_edge::launchDepthwiseResidual(config, tactics, tactic, {batch, height, width},
                    {x, weight, bias, residual, normWeight, normBias, nullptr, nullptr, out, norm}, epsilon, 0.0F, outputScale,
                    static_cast<CUstream>(stream));
            });
    }

} // extern "C"
