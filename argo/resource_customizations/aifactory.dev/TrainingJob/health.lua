-- Healthy is complete, not merely running: a sync wave waits for the end of the training.
local status = obj.status or {}
local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end

local function is(name)
  return conditions[name] ~= nil and conditions[name].status == "True"
end

-- The reason is what the documentation is sorted by; the message names the object and the way out.
local function health(code, name)
  local condition = conditions[name] or {}
  local message = condition.reason or name
  if condition.message ~= nil and condition.message ~= "" then
    message = message .. ": " .. condition.message
  end
  return {status = code, message = message}
end

if status.observedGeneration == nil or status.observedGeneration < obj.metadata.generation then
  local who = obj.spec.managedBy or "the operator"
  return {status = "Progressing", message = "Waiting for " .. who .. " to see this generation"}
end
if is("Complete") then
  return health("Healthy", "Complete")
end
if is("Stalled") then
  return health("Degraded", "Stalled")
end
if is("Suspended") then
  return health("Suspended", "Suspended")
end
if is("Reconciling") then
  return health("Progressing", "Reconciling")
end
return health("Progressing", "Ready")
