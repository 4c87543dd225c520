#include "pluginCreator.h"

#include "diagnostics.h"

#include <utility>

using namespace nvinfer1;

namespace rmt_edge
{

PluginCreatorBase::PluginCreatorBase(char const* op, std::vector<PluginField> fields)
    : mOp{op}
    , mFields{std::move(fields)}
    , mFieldCollection{size32(mFields.size()), mFields.data()}
{
    for (PluginField& field : mFields)
    {
        field.data = nullptr;
        field.length = 1;
    }
}

IPluginV3* PluginCreatorBase::createPlugin(
    char const* name, PluginFieldCollection const* fields, TensorRTPhase /*phase*/) noexcept
{
    return guarded<IPluginV3*>(nullptr,
        [&]() -> IPluginV3*
        {
            PluginFields const given{mOp, name, fields};
            std::unique_ptr<PluginBase> plugin = make(given, given.integerOr(kELEMENT_TYPE_FIELD, kUNKNOWN_TYPE));
            plugin->restoreNbInputs(given.integerOr(kNB_INPUTS_FIELD, 0));
            return plugin.release();
        });
}

PluginFieldCollection const* PluginCreatorBase::getFieldNames() noexcept
{
    return &mFieldCollection;
}

char const* PluginCreatorBase::getPluginName() const noexcept
{
    return mOp;
}

char const* PluginCreatorBase::getPluginVersion() const noexcept
{
    return kPLUGIN_VERSION;
}

char const* PluginCreatorBase::getPluginNamespace() const noexcept
{
    return kPLUGIN_NAMESPACE;
}

} // namespace rmt_edge
