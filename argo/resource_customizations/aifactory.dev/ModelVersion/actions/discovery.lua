local stalled = false
for _, condition in ipairs((obj.status or {}).conditions or {}) do
  if condition.type == "Stalled" and condition.status == "True" then
    stalled = true
  end
end

local actions = {}
actions["retry"] = {disabled = not stalled, iconClass = "fa fa-fw fa-redo"}
return actions
