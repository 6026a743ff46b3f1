local status = obj.status or {}
local rollout = status.rollout or {}
local changing = rollout.phase == "Progressing"
local canary = changing and rollout.step ~= nil
local paused = rollout.paused == true

-- A step that is a weight waits for pods, which nobody can promote.
local waits = false
if canary then
  local step = ((obj.spec.rollout or {}).steps or {})[rollout.step + 1]
  waits = paused or (step ~= nil and step.weight == nil)
end

-- Of several models one may have been taken back while another changes.
local taken_back = rollout.phase == "Failed"
for _, model in ipairs(status.models or {}) do
  taken_back = taken_back or model.state == "Failed"
end

local actions = {}
actions["promote"] = {disabled = not waits, iconClass = "fa fa-fw fa-arrow-circle-up"}
actions["pause"] = {disabled = not canary or paused, iconClass = "fa fa-fw fa-pause-circle"}
actions["resume"] = {disabled = not canary or not paused, iconClass = "fa fa-fw fa-play-circle"}
actions["abort"] = {disabled = not changing or status.candidate == nil, iconClass = "fa fa-fw fa-times-circle"}
actions["retry"] = {disabled = not taken_back, iconClass = "fa fa-fw fa-redo"}
return actions
