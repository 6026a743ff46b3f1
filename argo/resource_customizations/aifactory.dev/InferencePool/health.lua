-- Healthy is the wanted version on every pod; Suspended is a rollout that goes on when somebody says so.
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
  return {status = "Progressing", message = "Waiting for the operator to see this generation"}
end
if is("Stalled") then
  return health("Degraded", "Stalled")
end
if is("Reconciling") then
  local reason = conditions.Reconciling.reason
  if reason == "AnalysisFailed" then -- autoRollback is false: it stays as it is until somebody decides
    return health("Degraded", "Reconciling")
  end
  if reason == "WaitingForPromotion" or reason == "RolloutPaused" or reason == "AnalysisInconclusive" then
    return health("Suspended", "Reconciling")
  end
  return health("Progressing", "Reconciling")
end
if is("Ready") then
  return health("Healthy", "Ready")
end
return health("Progressing", "Ready")
