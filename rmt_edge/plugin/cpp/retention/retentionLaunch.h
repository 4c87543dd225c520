//! \file
//! Retention as launches of embedded kernels; used by the plugin and by the C entry points.

#ifndef RMT_EDGE_RETENTION_LAUNCH_H
#define RMT_EDGE_RETENTION_LAUNCH_H

#include "kernelStore.h"

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace rmt_edge
{

//! What selects the kernels.
struct RetentionConfig
{
    int32_t headDim{};
    bool isDecomposed{};
    int32_t elementType{};
};

constexpr int32_t kMAX_RETENTION_PASSES = 2;

//! The kernels of a configuration for one tile shape: W and H pass, or the whole form alone.
struct RetentionTactic
{
    int32_t id{};
    std::array<LoadedKernel, kMAX_RETENTION_PASSES> passes{};
};

struct RetentionSizes
{
    int32_t batch{};
    int32_t height{};
    int32_t width{};
    int32_t nbHeads{};
};

struct RetentionPointers
{
    void const* qkv{};
    void const* sine{};
    void const* cosine{};
    void const* lepeWeight{};
    void const* lepeBias{};
    void const* decay{};
    void* out{};
    void* workspace{};
};

//! \return The ids of the tile shapes the library holds for the configuration, as kernels.py lists them.
std::vector<int32_t> retentionTactics(RetentionConfig const& config);

//! \return The tactic that kernels.py's default_tactic names: the first whose keys hold a line, else the last.
int32_t defaultRetentionTactic(RetentionConfig const& config, int32_t lineLength);

//! \return Why the library holds no kernel for the configuration; empty if it does.
std::string retentionConfigProblem(RetentionConfig const& config);

//! \return Why the sizes are out of the kernels' range, unknown ones (-1) aside; empty if they are not.
std::string retentionSizesProblem(RetentionConfig const& config, RetentionSizes const& sizes);

//! \brief Load every tactic of the configuration into the current CUDA context.
int32_t loadRetention(RetentionConfig const& config, std::vector<RetentionTactic>& tactics) noexcept;

//! \return Bytes between the passes: the W pass's output, in the element type of qkv.
size_t retentionWorkspaceBytes(RetentionConfig const& config, RetentionSizes const& sizes) noexcept;

//! \brief Launch one or two kernels on the stream. tactic 0 chooses per pass by line length.
int32_t launchRetention(RetentionConfig const& config, std::vector<RetentionTactic> const& tactics, int32_t tactic,
    RetentionSizes const& sizes, RetentionPointers const& pointers, float outputScale, CUstream stream) noexcept;

} // namespace rmt_edge

#endif // RMT_EDGE_RETENTION_LAUNCH_H
