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

//! How qkv comes (rmt_edge/ops/product.py).
enum class RetentionInput : int32_t
{
    kTRUE,    //!< True values.
    kRAW,     //!< The raw product of an INT8 layer in the element type.
    kRAW_INT8 //!< The same in int8.
};

//! What selects the kernels.
struct RetentionConfig
{
    int32_t headDim{};
    bool isDecomposed{};
    int32_t elementType{};
    RetentionInput input{};
    bool isInt8{}; //!< The output.
};

struct RetentionSizes
{
    int32_t batch{};
    int32_t height{};
    int32_t width{};
    int32_t nbHeads{};
};

constexpr int32_t kMAX_RETENTION_PASSES = 2;

//! Tactics of the CUDA kernels (ops/retention/cuda_variants.py): W and H pass, or the whole form, and both passes in one
//! launch. They take some lengths of lines only. The tiles of the Triton kernels (TACTICS in kernels.py) lie below.
constexpr int32_t kLINES_TACTIC = 6;
constexpr int32_t kGRID_TACTIC = 7;

//! The kernels of a configuration for one tactic: W and H pass, or the whole form or both passes alone. A tile has one
//! kernel for a pass, a CUDA tactic one for each number of tokens a lane.
struct RetentionTactic
{
    int32_t id{};
    std::array<std::vector<LoadedKernel>, kMAX_RETENTION_PASSES> passes{};
};

//! Absent ones are null.
struct RetentionPointers
{
    void const* qkv{};
    void const* sine{};
    void const* cosine{};
    void const* lepeWeight{};
    void const* lepeBias{};
    void const* decay{};
    void const* qkvScale{};
    void const* qkvBias{};
    void* out{};
    void* workspace{};
};

//! \return The ids of the tactics the library holds for the configuration and that take the sizes: tiles first, as
//! kernels.py lists them. Sizes that are not known are -1.
std::vector<int32_t> retentionTactics(RetentionConfig const& config, RetentionSizes const& sizes);

//! \return The tactic with the fewest bytes to move that takes the sizes: both passes in one launch, else lines, else the
//! tile that kernels.py's default_tactic names, the first whose keys hold a line, else the last.
int32_t defaultRetentionTactic(RetentionConfig const& config, RetentionSizes const& sizes);

//! \return Why the library holds no kernel for the configuration; empty if it does.
std::string retentionConfigProblem(RetentionConfig const& config);

//! \return Why the sizes are out of the kernels' range, unknown ones (-1) aside; empty if they are not.
std::string retentionSizesProblem(RetentionConfig const& config, RetentionSizes const& sizes);

//! \brief Load every tactic of the configuration into the current CUDA context.
int32_t loadRetention(RetentionConfig const& config, std::vector<RetentionTactic>& tactics) noexcept;

//! \return Bytes between the passes: the W pass's output, in the element type.
size_t retentionWorkspaceBytes(RetentionConfig const& config, RetentionSizes const& sizes) noexcept;

//! \brief Launch one or two kernels on the stream. tactic 0, or one that does not take the sizes: the default.
int32_t launchRetention(RetentionConfig const& config, std::vector<RetentionTactic> const& tactics, int32_t tactic,
    RetentionSizes const& sizes, RetentionPointers const& pointers, float inputScale, float outputScale,
    CUstream stream) noexcept;

} // namespace rmt_edge

#endif // RMT_EDGE_RETENTION_LAUNCH_H
