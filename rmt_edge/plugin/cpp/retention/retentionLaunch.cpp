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

constexpr int32_t kMAX_TILE = 5;          // tactic ids of kernels.py, TACTICS, go up to it
constexpr uintptr_t kALIGNMENT = 16;      // the kernels are compiled for it
constexpr int32_t kNB_PACKED = 3;         // q, k, v
constexpr int32_t kNB_TILE_PARAMETERS = 16;
constexpr int32_t kNB_LINE_PARAMETERS = 16;
constexpr int32_t kLANE_GROUPS = 8;       // of a warp: LANE_GROUPS of cuda_variants.py
constexpr int32_t kLANE_TOKENS[] = {2, 4, 7}; // R of cuda_variants.py

enum class Pass : int32_t
{
    kW,
    kH,
    kWHOLE,
    kGRID
};

char const* passName(Pass pass)
{
    switch (pass)
    {
    case Pass::kW: return "w";
    case Pass::kH: return "h";
    case Pass::kGRID: return "grid";
    case Pass::kWHOLE: break;
    }
    return "whole";
}

int32_t nbPasses(RetentionConfig const& config, int32_t tactic)
{
    return config.isDecomposed && tactic != kGRID_TACTIC ? kMAX_RETENTION_PASSES : 1;
}

Pass passAt(RetentionConfig const& config, int32_t tactic, int32_t index)
{
    if (tactic == kGRID_TACTIC)
    {
        return Pass::kGRID;
    }
    if (!config.isDecomposed)
    {
        return Pass::kWHOLE;
    }
    return index == 0 ? Pass::kW : Pass::kH;
}

//! The name aot_variants() in kernels.py gives the kernel of a tile.
std::string tileName(RetentionConfig const& config, Pass pass, int32_t tile)
{
    char const* const given
        = config.input == RetentionInput::kTRUE ? "" : (config.input == RetentionInput::kRAW ? "raw_" : "raw8_");
    return std::string{"retention_"} + passName(pass) + "_d" + std::to_string(config.headDim) + "_" + given
        + (config.elementType == RMT_EDGE_FLOAT16 ? "fp16_t" : "fp32_t") + std::to_string(tile);
}

//! The name cuda_variants.py gives the kernel with that many tokens a lane.
std::string lineName(RetentionConfig const& config, Pass pass, int32_t laneTokens)
{
    char const* const given
        = config.input == RetentionInput::kTRUE ? "fp16" : (config.input == RetentionInput::kRAW ? "raw" : "raw8");
    return std::string{"retention_"} + passName(pass) + "_d" + std::to_string(config.headDim) + "_r"
        + std::to_string(laneTokens) + "_" + given + (config.isInt8 && pass != Pass::kW ? "_int8" : "");
}

//! The kernels of a tactic for a pass: of a tile one, of a CUDA tactic one for each number of tokens a lane.
std::vector<std::string> kernelNames(RetentionConfig const& config, int32_t tactic, Pass pass)
{
    std::vector<std::string> names;
    if (tactic <= kMAX_TILE)
    {
        names.push_back(tileName(config, pass, tactic));
    }
    else if (config.elementType == RMT_EDGE_FLOAT16)
    {
        for (int32_t const tokens : kLANE_TOKENS)
        {
            names.push_back(lineName(config, pass, tokens));
        }
    }
    names.erase(std::remove_if(names.begin(), names.end(), [](std::string const& x) { return !hasKernel(x); }), names.end());
    return names;
}

int32_t linesOf(Pass pass, RetentionSizes const& sizes)
{
    switch (pass)
    {
    case Pass::kW: return sizes.height;
    case Pass::kH: return sizes.width;
    case Pass::kGRID:
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
    case Pass::kGRID:
    case Pass::kWHOLE: break;
    }
    return sizes.height * sizes.width;
}

//! Whether lanes with that many tokens hold the lines of a pass: all lanes that have some have them all.
bool holds(Pass pass, int32_t laneTokens, RetentionSizes const& sizes)
{
    auto const isHeld = [laneTokens](int32_t length)
    { return length > 0 && length % laneTokens == 0 && length <= kLANE_GROUPS * laneTokens; };
    switch (pass)
    {
    case Pass::kW: return isHeld(sizes.width);
    case Pass::kH: return isHeld(sizes.height);
    case Pass::kGRID: return isHeld(sizes.width) && isHeld(sizes.height);
    case Pass::kWHOLE: break;
    }
    return sizes.width == laneTokens && sizes.height > 0 && sizes.height <= kLANE_GROUPS;
}

bool takes(RetentionConfig const& config, int32_t tactic, RetentionSizes const& sizes)
{
    if (tactic == kGRID_TACTIC && !config.isDecomposed)
    {
        return false;
    }
    for (int32_t i = 0; i < nbPasses(config, tactic); ++i)
    {
        Pass const pass = passAt(config, tactic, i);
        bool isTaken = false;
        for (std::string const& name : kernelNames(config, tactic, pass))
        {
            isTaken = isTaken || tactic <= kMAX_TILE || holds(pass, findAnyKernel(name)->tile[0], sizes);
        }
        if (!isTaken)
        {
            return false;
        }
    }
    return true;
}

std::vector<int32_t> tilesOf(RetentionConfig const& config)
{
    std::vector<int32_t> ids;
    for (int32_t id = 1; id <= kMAX_TILE; ++id)
    {
        if (!kernelNames(config, id, passAt(config, id, 0)).empty())
        {
            ids.push_back(id);
        }
    }
    // Smaller tiles first, as FORM_TACTICS in kernels.py lists them.
    auto const queries = [&config](int32_t id) { return findAnyKernel(tileName(config, passAt(config, id, 0), id))->tile[0]; };
    std::sort(ids.begin(), ids.end(), [&queries](int32_t a, int32_t b) { return queries(a) < queries(b); });
    return ids;
}

int32_t checkPointers(RetentionConfig const& config, RetentionPointers const& pointers)
{
    struct Named
    {
        char const* name;
        void const* pointer;
        bool isNeeded;
    };
    bool const isScaled = config.input != RetentionInput::kTRUE;
    Named const all[] = {{"qkv", pointers.qkv, true}, {"sin", pointers.sine, true}, {"cos", pointers.cosine, true},
        {"lepe_weight", pointers.lepeWeight, true}, {"lepe_bias", pointers.lepeBias, true},
        {"decay", pointers.decay, true}, {"qkv_scale", pointers.qkvScale, isScaled},
        {"qkv_bias", pointers.qkvBias, isScaled}, {"out", pointers.out, true},
        {"workspace", pointers.workspace, config.isDecomposed}};
    for (Named const& named : all)
    {
        bool const isAligned = reinterpret_cast<uintptr_t>(named.pointer) % kALIGNMENT == 0;
        if (named.isNeeded && (named.pointer == nullptr || !isAligned))
        {
            return reportError(std::string{"Retention: "} + named.name + " is null or not 16-byte aligned.");
        }
    }
    return kSUCCESS;
}

//! What one launch is given besides its kernel.
struct PassArguments
{
    RetentionSizes sizes;
    RetentionPointers pointers;
    bool isDecomposed{};
    float inputScale{};
    float outputScale{};
};

int32_t launchTile(Pass pass, LoadedKernel const& kernel, PassArguments arguments, CUstream stream)
{
    RetentionPointers& pointers = arguments.pointers;
    RetentionSizes& sizes = arguments.sizes;
    // Only the H pass reads the W pass's output and only the W pass writes it; elsewhere any valid pointer will do.
    void* wOut = arguments.isDecomposed ? pointers.workspace : pointers.out;
    void* out = pass == Pass::kW ? wOut : pointers.out;
    void* outInt8 = pointers.out;
    void* parameters[kNB_TILE_PARAMETERS] = {&pointers.qkv, &wOut, &pointers.sine, &pointers.cosine, &pointers.decay,
        &pointers.lepeWeight, &pointers.lepeBias, &pointers.qkvScale, &pointers.qkvBias, &out, &outInt8,
        &arguments.inputScale, &arguments.outputScale, &sizes.height, &sizes.width, &sizes.nbHeads};
    int32_t const tileQueries = kernel.embedded->tile[0];
    int64_t const nbTiles = (lineLength(pass, sizes) + tileQueries - 1) / tileQueries;
    int64_t const nbBlocks = nbTiles * sizes.batch * sizes.nbHeads * linesOf(pass, sizes);
    return launchKernel(kernel, nbBlocks, 1, parameters, kNB_TILE_PARAMETERS, stream);
}

//! A block: tile[1] lines of a head, in the whole form that many images; or all of a head's grid, whose tokens lie in
//! shared memory, tile[2] bytes each for q, k and v.
int32_t launchLines(Pass pass, LoadedKernel const& kernel, PassArguments arguments, CUstream stream)
{
    RetentionPointers& pointers = arguments.pointers;
    RetentionSizes& sizes = arguments.sizes;
    void* parameters[kNB_LINE_PARAMETERS] = {&pointers.qkv, &pointers.workspace, &pointers.sine, &pointers.cosine,
        &pointers.decay, &pointers.lepeWeight, &pointers.lepeBias, &pointers.qkvScale, &pointers.qkvBias, &pointers.out,
        &arguments.inputScale, &arguments.outputScale, &sizes.height, &sizes.width, &sizes.nbHeads, &sizes.batch};
    int32_t const* const tile = kernel.embedded->tile;
    int64_t const lines = pass == Pass::kWHOLE ? sizes.batch : linesOf(pass, sizes);
    int64_t const images = pass == Pass::kWHOLE ? 1 : sizes.batch;
    int64_t const nbBlocks = (lines + tile[1] - 1) / tile[1] * images * sizes.nbHeads;
    int32_t sharedBytes = kernel.embedded->sharedBytes;
    if (pass == Pass::kGRID)
    {
        int32_t const mostTokens = kLANE_GROUPS * tile[0] * kLANE_GROUPS * tile[0];
        sharedBytes -= kNB_PACKED * (mostTokens - sizes.height * sizes.width) * tile[2];
    }
    return launchKernel(kernel, nbBlocks, 1, parameters, kNB_LINE_PARAMETERS, stream, sharedBytes);
}

//! \return The kernel of a tactic for a pass of that length; nullptr if it has none.
LoadedKernel const* kernelFor(RetentionTactic const& tactic, int32_t index, Pass pass, RetentionSizes const& sizes)
{
    for (LoadedKernel const& kernel : tactic.passes[static_cast<size_t>(index)])
    {
        if (tactic.id <= kMAX_TILE || holds(pass, kernel.embedded->tile[0], sizes))
        {
            return &kernel;
        }
    }
    return nullptr;
}

//! \return The tile that default_tactic of kernels.py names for a line; 0 without tiles.
int32_t defaultTile(RetentionConfig const& config, int32_t length)
{
    std::vector<int32_t> const ids = tilesOf(config);
    for (int32_t const id : ids)
    {
        if (findAnyKernel(tileName(config, passAt(config, id, 0), id))->tile[1] >= length)
        {
            return id;
        }
    }
    return ids.empty() ? 0 : ids.back();
}

} // namespace

std::vector<int32_t> retentionTactics(RetentionConfig const& config, RetentionSizes const& sizes)
{
    std::vector<int32_t> ids = tilesOf(config);
    for (int32_t const id : {kLINES_TACTIC, kGRID_TACTIC})
    {
        if (takes(config, id, sizes))
        {
            ids.push_back(id);
        }
    }
    return ids;
}

int32_t defaultRetentionTactic(RetentionConfig const& config, RetentionSizes const& sizes)
{
    for (int32_t const id : {kGRID_TACTIC, kLINES_TACTIC})
    {
        if (takes(config, id, sizes))
        {
            return id;
        }
    }
    Pass const longest = config.isDecomposed && sizes.width > sizes.height ? Pass::kW : Pass::kH;
    return defaultTile(config, lineLength(config.isDecomposed ? longest : Pass::kWHOLE, sizes));
}

std::string retentionConfigProblem(RetentionConfig const& config)
{
    if (!tilesOf(config).empty() || !kernelNames(config, kLINES_TACTIC, passAt(config, kLINES_TACTIC, 0)).empty())
    {
        return {};
    }
    return "this library holds no kernel for head dim " + std::to_string(config.headDim) + ", element type "
        + std::to_string(config.elementType) + (config.input == RetentionInput::kTRUE ? "" : ", a raw product")
        + ". Note: head dims 16 and 32, element types 0 (float32) and 1 (float16), raw products beside 1 alone, "
          "which rmt-edge export writes.";
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
    if (isKnown && retentionConfigProblem(config).empty() && retentionTactics(config, sizes).empty())
    {
        return "this library holds no kernel of head dim " + std::to_string(config.headDim) + " for a grid of "
            + std::to_string(sizes.height) + " x " + std::to_string(sizes.width)
            + (config.input == RetentionInput::kTRUE ? "." : " whose qkv is a raw product"
                                                          + std::string{config.input == RetentionInput::kRAW_INT8
                                                                  ? " of 8 bits; quantise with --recipe int8-linear."
                                                                  : "."});
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
            std::vector<int32_t> ids = tilesOf(config);
            ids.push_back(kLINES_TACTIC);
            if (config.isDecomposed)
            {
                ids.push_back(kGRID_TACTIC);
            }
            std::vector<RetentionTactic> loaded;
            for (int32_t const id : ids)
            {
                RetentionTactic tactic;
                tactic.id = id;
                for (int32_t i = 0; i < nbPasses(config, id); ++i)
                {
                    for (std::string const& name : kernelNames(config, id, passAt(config, id, i)))
                    {
                        LoadedKernel kernel;
                        if (loadKernel(name, kernel) != kSUCCESS)
                        {
                            return kFAILURE;
                        }
                        tactic.passes[static_cast<size_t>(i)].push_back(kernel);
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
    RetentionSizes const& sizes, RetentionPointers const& pointers, float inputScale, float outputScale,
    CUstream stream) noexcept
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
            bool const isChosen = tactic != 0 && (tactic <= kMAX_TILE || takes(config, tactic, sizes));
            int32_t const id = isChosen ? tactic : defaultRetentionTactic(config, sizes);
            PassArguments const arguments{sizes, pointers, config.isDecomposed, inputScale, outputScale};
            for (int32_t i = 0; i < nbPasses(config, id); ++i)
            {
                Pass const pass = passAt(config, id, i);
                // Without a choice each pass takes the tile for its own lines.
                int32_t const ofPass = isChosen || id > kMAX_TILE ? id : defaultTile(config, lineLength(pass, sizes));
                auto const chosen = std::find_if(
                    tactics.begin(), tactics.end(), [ofPass](RetentionTactic const& x) { return x.id == ofPass; });
                LoadedKernel const* const kernel
                    = chosen == tactics.end() ? nullptr : kernelFor(*chosen, i, pass, sizes);
                if (kernel == nullptr)
                {
                    return reportError("Retention: the library holds no tactic " + std::to_string(tactic)
                        + " for this form and element type; 0 chooses one.");
                }
                int32_t const status = ofPass > kMAX_TILE ? launchLines(pass, *kernel, arguments, stream)
                                                          : launchTile(pass, *kernel, arguments, stream);
                if (status != kSUCCESS)
                {
                    return kFAILURE;
                }
            }
            return kSUCCESS;
        });
}

} // namespace rmt_edge
