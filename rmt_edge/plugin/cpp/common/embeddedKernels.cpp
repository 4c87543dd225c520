#include "embeddedKernels.h"

#include <algorithm>
#include <array>
#include <limits>
#include <set>

namespace rmt_edge
{
namespace
{

//! Binary compatibility within a major version does not hold between Tegra and the other GPUs, either way (CUDA C++
//! Programming Guide, binary compatibility): Orin takes no cubin but its own, and nothing else takes Orin's.
constexpr std::array<int32_t, 1> kTEGRA_SMS{87};

EmbeddedKernel const* begin()
{
    return kEMBEDDED_KERNELS;
}

EmbeddedKernel const* end()
{
    return kEMBEDDED_KERNELS + kNB_EMBEDDED_KERNELS;
}

bool isTegra(int32_t sm)
{
    return std::find(kTEGRA_SMS.begin(), kTEGRA_SMS.end(), sm) != kTEGRA_SMS.end();
}

//! How well an image suits a GPU: 0 not at all, below 0 PTX, above 0 a cubin; the greater the better but for 0.
int32_t suitability(EmbeddedKernel const& kernel, int32_t sm)
{
    if (kernel.sm > sm)
    {
        return 0;
    }
    if (kernel.isPtx != 0)
    {
        return kernel.sm - std::numeric_limits<int32_t>::max();
    }
    if (kernel.sm == sm)
    {
        return std::numeric_limits<int32_t>::max();
    }
    bool const isSameMajor = kernel.sm / kMINOR_PER_MAJOR == sm / kMINOR_PER_MAJOR;
    return isSameMajor && kernel.isExact == 0 && !isTegra(kernel.sm) && !isTegra(sm) ? kernel.sm : 0;
}

} // namespace

bool hasKernel(std::string const& name) noexcept
{
    return findAnyKernel(name) != nullptr;
}

EmbeddedKernel const* findAnyKernel(std::string const& name) noexcept
{
    EmbeddedKernel const* const found
        = std::find_if(begin(), end(), [&name](EmbeddedKernel const& kernel) { return name == kernel.name; });
    return found != end() ? found : nullptr;
}

std::vector<EmbeddedKernel const*> kernelCandidates(std::string const& name, int32_t sm)
{
    std::vector<EmbeddedKernel const*> candidates;
    for (EmbeddedKernel const* kernel = begin(); kernel != end(); ++kernel)
    {
        if (name == kernel->name && suitability(*kernel, sm) != 0)
        {
            candidates.push_back(kernel);
        }
    }
    std::stable_sort(candidates.begin(), candidates.end(),
        [sm](EmbeddedKernel const* a, EmbeddedKernel const* b) { return suitability(*a, sm) > suitability(*b, sm); });
    return candidates;
}

std::string smText(int32_t sm)
{
    return "SM " + std::to_string(sm / kMINOR_PER_MAJOR) + "." + std::to_string(sm % kMINOR_PER_MAJOR);
}

std::string imageText(EmbeddedKernel const& kernel)
{
    return (kernel.isPtx != 0 ? "the PTX of " : "the cubin of ") + smText(kernel.sm);
}

std::string missingKernelMessage(std::string const& name, int32_t sm)
{
    std::set<int32_t> cubins;
    std::string ptx = "none";
    for (EmbeddedKernel const* kernel = begin(); kernel != end(); ++kernel)
    {
        if (kernel->isPtx != 0)
        {
            ptx = smText(kernel->sm) + " and later";
        }
        else
        {
            cubins.insert(kernel->sm);
        }
    }
    std::string list;
    for (int32_t const cubin : cubins)
    {
        list += (list.empty() ? "" : ", ") + smText(cubin);
    }
    return "kernel " + name + " was not compiled for this GPU (" + smText(sm) + "). Note: the library holds cubins for "
        + (list.empty() ? "none" : list) + "; PTX: " + ptx + ". Build the library for it: rmt-edge plugin build --sm "
        + std::to_string(sm);
}

} // namespace rmt_edge
