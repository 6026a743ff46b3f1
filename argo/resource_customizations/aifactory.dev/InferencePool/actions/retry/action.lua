-- Each new value asks once. The version of the object that was looked at is one: who clicks twice asks once.
obj.metadata.annotations = obj.metadata.annotations or {}
obj.metadata.annotations["aifactory.dev/retry"] = obj.metadata.resourceVersion
return obj
