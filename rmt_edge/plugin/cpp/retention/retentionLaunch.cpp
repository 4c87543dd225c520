#include "retentionLaunch.h"

#include "diagnostics.h"
#include "retentionKernel.h"

#include <algorithm>
#include <limits>
#include <string>

namespace rmt_edge
{
namespace
{

constexpr int32_t kMAX_TACTIC = 15; // tactic ids of kernels.py, TACTICS, lie below
constexpr uintptr_t kALIGNMENT = 16; // the kernels are compiled for it
constexpr int32_t kNB_PACKED = 3;    // q, k, v
constexpr int32_t kNB_PARAMETERS = 13;

enum class Pass : int32_t
{
    kW,
    kH,
    kWHOLE
};

char const* passName(Pass pass)
{
    switch (pass)
    {
    case Pass::kW: return "w";
    case Pass::kH: return "h";
    case Pass::kWHOLE: break;
    }
    return "whole";
}

int32_t nbPasses(RetentionConfig const& config)
{
    return config.isDecomposed ? kMAX_RETENTION_PASSES : 1;
}

Pass passAt(RetentionConfig const& config, int32_t index)
{
    if (!config.isDecomposed)
    {
        return Pass::kWHOLE;
    }
    return index == 0 ? Pass::kW : Pass::kH;
}

//! The name aot_variants() in kernels.py gives the kernel.
std::string kernelName(RetentionConfig const& config, Pass pass, int32_t tactic)
{
    return std::string{"retention_"} + passName(pass) + "_d" + std::to_string(config.headDim)
        + (config.elementType == RMT_EDGE_FLOAT16 ? "_fp16_t" : "_fp32_t") + std::to_string(tactic);
}

int32_t linesOf(Pass pass, RetentionSizes const& sizes)
{
    switch (pass)
    {
    case Pass::kW: return sizes.height;
    case Pass::kH: return sizes.width;
    case Pass::kWHOLE: break;
    }
    return 1;
}

int32_t lineLength(Pass pass, RetentionSizes const& sizes)
{
    switch (pass)
    {
    case Pass::kW: return sizes.width;
    case Pass::kH: return sizes.height;
    case Pass::kWHOLE: break;
    }
    return sizes.height * sizes.width;
}

//! \return nullptr if the library holds no such tactic.
RetentionTactic const* chooseTactic(std::vector<RetentionTactic> const& tactics, int32_t tactic, int32_t length)
{
    for (RetentionTactic const& candidate : tactics)
    {
        bool const isChosen = tactic != 0 ? candidate.id == tactic : candidate.passes[0].embedded->tile[1] >= length;
        if (isChosen)
        {
            return &candidate;
        }
    }
    return tactic == 0 && !tactics.empty() ? &tactics.back() : nullptr;
}

int32_t checkPointers(RetentionConfig const& config, RetentionPointers const& pointers)
{
    struct Named
    {
        char const* name;
        void const* pointer;
    };
    Named const all[] = {{"qkv", pointers.qkv}, {"sin", pointers.sine}, {"cos", pointers.cosine},
        {"lepe_weight", pointers.lepeWeight}, {"lepe_bias", pointers.lepeBias}, {"decay", pointers.decay},
        {"out", pointers.out}, {"workspace", config.isDecomposed ? pointers.workspace : pointers.out}};
    for (Named const& named : all)
    {
        if (named.pointer == nullptr || reinterpret_cast<uintptr_t>(named.pointer) % kALIGNMENT != 0)
        {
            return reportError(std::string{"Retention: "} + named.name + " is null or not 16-byte aligned.");
        }
    }
    return kSUCCESS;
}

int32_t launchPass(Pass pass, LoadedKernel const& kernel, RetentionSizes sizes, RetentionPointers pointers,
    bool isDecomposed, float outputScale, CUstream stream)
{
    // Only the H pass reads the W pass's output and only the W pass writes it; elsewhere any valid pointer will do.
    void* wOut = isDecomposed ? pointers.workspace : pointers.out;
    void* out = pass == Pass::kW ? wOut : pointers.out;
    void* outInt8 = pointers.out;
    void* parameters[kNB_PARAMETERS]
        = {&pointers.qkv, &wOut, &pointers.sine, &pointers.cosine, &pointers.decay, &pointers.lepeWeight,
            &pointers.lepeBias, &out, &outInt8, &outputScale, &sizes.height, &sizes.width, &sizes.nbHeads};
    int32_t const tileQueries = kernel.embedded->tile[0];
    int64_t const nbTiles = (lineLength(pass, sizes) + tileQueries - 1) / tileQueries;
    int64_t const nbBlocks = nbTiles * sizes.batch * sizes.nbHeads * linesOf(pass, sizes);
    return launchKernel(kernel, nbBlocks, 1, parameters, kNB_PARAMETERS, stream);
}

} // namespace

std::vector<int32_t> retentionTactics(RetentionConfig const& config)
{
    std::vector<int32_t> ids;
    for (int32_t id = 1; id <= kMAX_TACTIC; ++id)
    {
        if (hasKernel(kernelName(config, passAt(config, 0), id)))
        {
            ids.push_back(id);
        }
    }
    // Smaller tiles first, as FORM_TACTICS in kernels.py lists them.
    std::sort(ids.begin(), ids.end(),
        [&config](int32_t a, int32_t b)
        {
            auto const queries
                = [&config](int32_t id) { return findAnyKernel(kernelName(config, passAt(config, 0), id))->tile[0]; };
            return queries(a) < queries(b);
        });
    return ids;
}

int32_t defaultRetentionTactic(RetentionConfig const& config, int32_t length)
{
    std::vector<int32_t> const ids = retentionTactics(config);
    for (int32_t const id : ids)
    {
        if (findAnyKernel(kernelName(config, passAt(config, 0), id))->tile[1] >= length)
        {
            return id;
        }
    }
    return ids.empty() ? 0 : ids.back();
}

std::string retentionConfigProblem(RetentionConfig const& config)
{
    if (!retentionTactics(config).empty())
    {
        return {};
    }
    return "this library holds no kernel for head dim " + std::to_string(config.headDim) + ", element type "
        + std::to_string(config.elementType)
        + ". Note: head dims 16 and 32, element types 0 (float32) and 1 (float16).";
}

std::string retentionSizesProblem(RetentionConfig const& config, RetentionSizes const& sizes)
{
    // Divided, not multiplied: the product of three sizes of 31 bits overflows 64.
    int64_t const perToken = static_cast<int64_t>(sizes.nbHeads) * config.headDim * kNB_PACKED;
    bool const isKnown = sizes.height > 0 && sizes.width > 0;
    bool const isTooLarge = isKnown && std::numeric_limits<int32_t>::max() / sizes.height / sizes.width < perToken;
    if (sizes.batch == 0 || sizes.height == 0 || sizes.width == 0 || sizes.nbHeads < 1 || isTooLarge)
    {
        return "batch " + std::to_string(sizes.batch) + ", grid " + std::to_string(sizes.height) + " x "
            + std::to_string(sizes.width) + ", " + std::to_string(sizes.nbHeads)
            + " heads is out of range. Note: all at least 1; one image of qkv below 2^31 elements.";
    }
    return {};
}

int32_t loadRetention(RetentionConfig const& config, std::vector<RetentionTactic>& tactics) noexcept
{
    return guarded<int32_t>(kFAILURE,
        [&]() -> int32_t
        {
            std::string const problem = retentionConfigProblem(config);
            if (!problem.empty())
            {
                return reportError("Retention: " + problem);
            }
            std::vector<RetentionTactic> loaded;
            for (int32_t const id : retentionTactics(config))
            {
                RetentionTactic tactic;
                tactic.id = id;
                for (int32_t i = 0; i < nbPasses(config); ++i)
                {
                    if (loadKernel(kernelName(config, passAt(config, i), id), tactic.passes[static_cast<size_t>(i)])
                        != kSUCCESS)
                    {
                        return kFAILURE;
                    }
                }
                loaded.push_back(tactic);
            }
            tactics = std::move(loaded);
            return kSUCCESS;
        });
}

size_t retentionWorkspaceBytes(RetentionConfig const& config, RetentionSizes const& sizes) noexcept
{
    if (!config.isDecomposed)
    {
        return 0;
    }
    size_t const elementBytes = config.elementType == RMT_EDGE_FLOAT16 ? sizeof(uint16_t) : sizeof(float);
    return static_cast<size_t>(sizes.batch) * static_cast<size_t>(sizes.height) * static_cast<size_t>(sizes.width)
        * static_cast<size_t>(sizes.nbHeads) * static_cast<size_t>(config.headDim) * elementBytes;
}

int32_t launchRetention(RetentionConfig const& config, std::vector<RetentionTactic> const& tactics, int32_t tactic,
    RetentionSizes const& sizes, RetentionPointers const& pointers, float outputScale, CUstream stream) noexcept
{
    return guarded<int32_t>(kFAILURE,
        [&]() -> int32_t
        {
            std::string const problem = retentionSizesProblem(config, sizes);
            if (!problem.empty() || sizes.batch < 0 || sizes.height < 0 || sizes.width < 0)
            {
                return reportError("Retention: " + (problem.empty() ? "a size is negative." : problem));
            }
            if (checkPointers(config, pointers) != kSUCCESS)
            {
                return kFAILURE;
            }
            for (int32_t i = 0; i < nbPasses(config); ++i)
            {
                Pass const pass = passAt(config, i);
                RetentionTactic const* const chosen = chooseTactic(tactics, tactic, lineLength(pass, sizes));
                if (chosen == nullptr)
                {
                    return reportError("Retention: the library holds no tactic " + std::to_string(tactic)
                        + " for this form and element type; 0 chooses one.");
                }
                if (launchPass(pass, chosen->passes[static_cast<size_t>(i)], sizes, pointers, config.isDecomposed,
                        outputScale, stream)
                    != kSUCCESS)
                {
                    return kFAILURE;
                }
            }
            return kSUCCESS;
        });
}

} // namespace rmt_edge
