local status = obj.status or {}
local ended = false
for _, condition in ipairs(status.conditions or {}) do
  if (condition.type == "Complete" or condition.type == "Failed") and condition.status == "True" then
    ended = true
  end
end

-- What a store, an artifact or the check of its program is refused for: it is asked again by the annotation.
local asked_again = {
  AccessDenied = true,
  CheckFailed = true,
  DigestMismatch = true,
  FormatMismatch = true,
  InvalidArtifact = true,
  SourceNotFound = true,
  StoreFull = true,
  StoreUnavailable = true,
}

local actions = {}
actions["suspend"] = {disabled = ended or obj.spec.suspend == true, iconClass = "fa fa-fw fa-pause-circle"}
actions["resume"] = {disabled = ended or obj.spec.suspend ~= true, iconClass = "fa fa-fw fa-play-circle"}
actions["retry"] = {disabled = ended or not asked_again[status.reason], iconClass = "fa fa-fw fa-redo"}
return actions
