#include "nmsLaunch.h"

#include "diagnostics.h"

#include <algorithm>

namespace rmt_edge
{
namespace
{

constexpr int32_t kALIGNMENT = 16;    // of pointers: the kernels are compiled for it
constexpr int32_t kMAX_BATCH = 65535; // MAX_GRID_Y of ops/nms/kernels.py
constexpr int32_t kMAX_BOXES = 8192;  // MAX_BOXES there
constexpr int32_t kWORD_BITS = 32;    // WORD_BITS there
constexpr int32_t kNB_PLANES = 5;     // PLANES there
constexpr int32_t kNB_SORT_PARAMETERS = 8;
constexpr int32_t kNB_COMPARE_PARAMETERS = 6;
constexpr int32_t kNB_SELECT_PARAMETERS = 13;

int32_t nbTiles(int32_t size, int32_t tile)
{
    return (size + tile - 1) / tile;
}

//! Where the parts of the workspace begin, in bytes, and where they end.
struct Workspace
{
    explicit Workspace(NmsSizes const& sizes)
    {
        size_t const nbBoxes = static_cast<size_t>(sizes.batch) * static_cast<size_t>(sizes.boxes);
        size_t const nbWords = static_cast<size_t>(nbTiles(sizes.boxes, kWORD_BITS));
        order = aligned(kNB_PLANES * nbBoxes * sizeof(float));
        candidates = order + aligned(nbBoxes * sizeof(int32_t));
        victims = candidates + aligned(static_cast<size_t>(sizes.batch) * sizeof(int32_t));
        end = victims + aligned(nbBoxes * nbWords * sizeof(int32_t));
    }

    static size_t aligned(size_t nbBytes)
    {
        return (nbBytes + kALIGNMENT - 1) / kALIGNMENT * kALIGNMENT;
    }

    size_t order{};
    size_t candidates{};
    size_t victims{};
    size_t end{};
};

int32_t checkPointers(NmsPointers const& pointers)
{
    struct Named
    {
        char const* name;
        void const* pointer;
    };
    Named const all[] = {{"boxes", pointers.boxes}, {"scores", pointers.scores}, {"ids", pointers.ids},
        {"out_boxes", pointers.outBoxes}, {"out_scores", pointers.outScores}, {"out_ids", pointers.outIds},
        {"count", pointers.count}, {"workspace", pointers.workspace}};
    for (Named const& named : all)
    {
        if (named.pointer == nullptr || reinterpret_cast<uintptr_t>(named.pointer) % kALIGNMENT != 0)
        {
            return reportError(std::string{"Nms: "} + named.name + " is null or not 16-byte aligned.");
        }
    }
    return kSUCCESS;
}

} // namespace

std::string nmsSizesProblem(NmsSizes const& sizes, int32_t maxOutputs)
{
    bool const isOutside = sizes.batch == 0 || sizes.batch > kMAX_BATCH || sizes.boxes == 0 || sizes.boxes > kMAX_BOXES;
    if (isOutside)
    {
        return std::to_string(sizes.batch) + " images of " + std::to_string(sizes.boxes)
            + " boxes is out of range. Note: 1 to 65535 images, 1 to 8192 boxes.";
    }
    if (sizes.boxes > 0 && sizes.boxes < maxOutputs)
    {
        return "max_outputs is " + std::to_string(maxOutputs) + ", more than the " + std::to_string(sizes.boxes)
            + " boxes.";
    }
    return {};
}

size_t nmsWorkspaceBytes(NmsSizes const& sizes)
{
    return Workspace{sizes}.end;
}

int32_t loadNms(NmsKernels& kernels) noexcept
{
    bool const isLoaded = loadKernel("Nms_sort", kernels.sort) == kSUCCESS
        && loadKernel("Nms_compare", kernels.compare) == kSUCCESS && loadKernel("Nms_select", kernels.select) == kSUCCESS;
    return isLoaded ? kSUCCESS : kFAILURE;
}

int32_t launchNms(NmsKernels const& kernels, NmsSizes const& sizes, NmsSettings const& settings,
    NmsPointers const& pointers, CUstream stream) noexcept
{
    return guarded<int32_t>(kFAILURE,
        [&]() -> int32_t
        {
            std::string const problem = nmsSizesProblem(sizes, settings.maxOutputs);
            if (!problem.empty() || sizes.batch < 0 || sizes.boxes < 0)
            {
                return reportError("Nms: " + (problem.empty() ? "a size is negative." : problem));
            }
            if (checkPointers(pointers) != kSUCCESS)
            {
                return kFAILURE;
            }
            Workspace const parts{sizes};
            NmsPointers all = pointers;
            NmsSettings set = settings;
            char* const workspace = static_cast<char*>(pointers.workspace);
            void* sorted = workspace;
            void* order = workspace + parts.order;
            void* candidates = workspace + parts.candidates;
            void* victims = workspace + parts.victims;
            int32_t nbBoxes = sizes.boxes;
            int32_t nbWords = nbTiles(nbBoxes, kWORD_BITS);
            void* sort[kNB_SORT_PARAMETERS] = {&all.boxes, &all.scores, &all.ids, &sorted, &order, &candidates,
                &nbBoxes, &set.scoreThreshold};
            void* compare[kNB_COMPARE_PARAMETERS] = {&sorted, &candidates, &victims, &nbBoxes, &nbWords,
                &set.iouThreshold};
            void* select[kNB_SELECT_PARAMETERS] = {&all.boxes, &all.scores, &all.ids, &order, &candidates, &victims,
                &all.outBoxes, &all.outScores, &all.outIds, &all.count, &nbBoxes, &nbWords, &set.maxOutputs};
            int32_t const nbSortBlocks = nbTiles(nbBoxes, kernels.sort.embedded->tile[0]);
            int32_t const nbCompareBlocks = nbWords * nbTiles(nbBoxes, kernels.compare.embedded->tile[0]);
            bool const isLaunched
                = launchKernel(kernels.sort, nbSortBlocks, sizes.batch, sort, kNB_SORT_PARAMETERS, stream) == kSUCCESS
                && launchKernel(kernels.compare, nbCompareBlocks, sizes.batch, compare, kNB_COMPARE_PARAMETERS, stream)
                    == kSUCCESS
                && launchKernel(kernels.select, sizes.batch, 1, select, kNB_SELECT_PARAMETERS, stream) == kSUCCESS;
            return isLaunched ? kSUCCESS : kFAILURE;
        });
}

} // namespace rmt_edge
