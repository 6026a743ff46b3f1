{{/* The full name of an image: its own parts, else those of all images. */}}
{{- define "aifactory.image" -}}
{{- $top := index . 0 -}}{{- $name := index . 1 -}}{{- $own := index $top.Values.images $name -}}
{{- $own.registry | default $top.Values.images.registry }}/{{ $own.repository | default $name }}
{{- if not $own.digest }}:{{ $own.tag | default $top.Values.images.tag | default $top.Chart.AppVersion }}
{{- else }}{{ with $own.tag }}:{{ . }}{{ end }}@{{ $own.digest }}
{{- end -}}
{{- end -}}
{{- define "aifactory.name" -}}
{{ .Values.fullnameOverride | default .Release.Name }}
{{- end -}}
{{/* The operators: one for all namespaces, or one for each that is watched. */}}
{{- define "aifactory.scopes" -}}
{{- $name := printf "%s-operator" (include "aifactory.name" .) -}}
{{- range .Values.watchNamespaces | default (list "") }}
{{- $own := empty . | ternary $name (printf "%s-%s" $name .) }}
{{- if gt (len $own) 58 }}
{{- $own = printf "%s-%s" (trunc 49 $own | trimSuffix "-") (sha256sum $own | trunc 8) }}
{{- end }}
- {name: {{ quote $own }}, namespace: {{ quote . }}}
{{- end }}
{{- end -}}
{{- define "aifactory.labels" -}}
app.kubernetes.io/name: aifactory-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}
{{- define "aifactory.selector" -}}
app.kubernetes.io/name: aifactory-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}
{{/* Of the pods of one of the operators. */}}
{{- define "aifactory.own" -}}
{{- include "aifactory.selector" (index . 0) }}
{{- with (index . 1).namespace }}
aifactory.dev/watches: {{ quote . }}
{{- end }}
{{- end -}}
{{/* Of the pods that helm test makes: no Service may take them for operators. */}}
{{- define "aifactory.test" -}}
app.kubernetes.io/name: aifactory-operator-test
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}
