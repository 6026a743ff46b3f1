{{- define "aifactory.image" -}}
{{- $top := index . 0 -}}{{- $name := index . 1 -}}
{{- $usual := printf "%s/%s:%s" $top.Values.images.registry $name ($top.Values.images.tag | default $top.Chart.AppVersion) -}}
{{- index $top.Values.images $name | default $usual -}}
{{- end -}}
{{- define "aifactory.labels" -}}
app.kubernetes.io/name: aifactory-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}
{{- define "aifactory.selector" -}}
app.kubernetes.io/name: aifactory-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}
