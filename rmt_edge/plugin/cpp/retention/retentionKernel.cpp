#include "retentionKernel.h"

#include "cudaContext.h"
#include "diagnostics.h"
#include "retentionLaunch.h"

#include <string>
#include <vector>

namespace
{

//! Load the kernels of a configuration for as long as the scope's context lives.
int32_t loadIn(rmt_edge::ContextScope const& scope, rmt_edge::RetentionConfig const& config,
    std::vector<rmt_edge::RetentionTactic>& tactics)
{
    return scope.check() == rmt_edge::kSUCCESS ? rmt_edge::loadRetention(config, tactics) : rmt_edge::kFAILURE;
}

} // namespace

extern "C"
{

    int32_t rmt_retention_load(
        int32_t headDim, int32_t isDecomposed, int32_t elementType, int32_t input, int32_t isInt8)
    {
        return rmt_edge::guarded<int32_t>(rmt_edge::kFAILURE,
            [&]() -> int32_t
            {
                rmt_edge::RetentionConfig const config{headDim, isDecomposed != 0, elementType,
                    static_cast<rmt_edge::RetentionInput>(input), isInt8 != 0};
                std::string const problem = rmt_edge::retentionConfigProblem(config);
                if (!problem.empty())
                {
                    return rmt_edge::reportError("Retention: " + problem);
                }
                rmt_edge::ContextScope const scope;
                std::vector<rmt_edge::RetentionTactic> tactics;
                return loadIn(scope, config, tactics);
            });
    }

    size_t rmt_retention_workspace_bytes(int32_t batch, int32_t height, int32_t width, int32_t nbHeads, int32_t headDim,
        int32_t isDecomposed, int32_t elementType)
    {
        return rmt_edge::retentionWorkspaceBytes(
            {headDim, isDecomposed != 0, elementType, {}, false}, {batch, height, width, nbHeads});
    }

    int32_t rmt_retention_launch(void const* qkv, void const* sine, void const* cosine, void const* lepeWeight,
        void const* lepeBias, void const* decay, void const* qkvScale, void const* qkvBias, void* out, void* workspace, int32_t batch, int32_t height, int32_t width,
        int32_t nbHeads, int32_t headDim, int32_t isDecomposed, int32_t elementType, float inputScale, float outputScale, int32_t tactic,
        void* stream)
    {
        return rmt_edge::guarded<int32_t>(rmt_edge::kFAILURE,
            [&]() -> int32_t
            {
                rmt_edge::RetentionInput const raw
                    = inputScale > 0.0F ? rmt_edge::RetentionInput::kRAW_INT8 : rmt_edge::RetentionInput::kRAW;
                rmt_edge::RetentionConfig const config{headDim, isDecomposed != 0, elementType,
                    qkvScale == nullptr ? rmt_edge::RetentionInput::kTRUE : raw, outputScale > 0.0F};
                std::string problem = rmt_edge::retentionConfigProblem(config);
                if (!(outputScale >= 0.0F))
                {
                    problem = "output_scale must be positive, or 0 for no quantisation.";
                }
                if (!problem.empty())
                {
                    return rmt_edge::reportError("Retention: " + problem);
                }
                rmt_edge::ContextScope const scope;
                std::vector<rmt_edge::RetentionTactic> tactics;
                if (loadIn(scope, config, tactics) != rmt_edge::kSUCCESS)
                {
                    return rmt_edge::kFAILURE;
                }
                return rmt_edge::launchRetention(config, tactics, tactic, {batch, height, width, nbHeads},
                    {qkv, sine, cosine, lepeWeight, lepeBias, decay, qkvScale, qkvBias, out, workspace}, inputScale, outputScale,
                    static_cast<CUstream>(stream));
            });
    }

} // extern "C"
