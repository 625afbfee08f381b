{{/*
Everything is named after the release, so that the Service has the name that neighbours dial. Several participants
in one release, under a chart of the user's own, are named as the topology names them.
*/}}
{{- define "flaremesh.fullname" -}}
{{ ternary .Release.Name .Values.name .Chart.IsRoot }}
{{- end }}

{{- define "flaremesh.secret" -}}
{{ .Values.kit.existingSecret | default (printf "%s-kit" (include "flaremesh.fullname" .)) }}
{{- end }}

{{/* Which participant the chart runs; unlike the chart's name, an alias in another chart keeps it. */}}
{{- define "flaremesh.component" -}}
{{ index .Chart.Annotations "flaremesh.dev/component" }}
{{- end }}

{{/* The template of this name that the chart of the participant has. Takes (list $ name). */}}
{{- define "flaremesh.own" -}}
{{- $root := first . }}
{{- include (printf "flaremesh.%s.%s" (include "flaremesh.component" $root) (last .)) $root }}
{{- end }}

{{- define "flaremesh.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: {{ include "flaremesh.component" . }}
{{- end }}

{{- define "flaremesh.metadataLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: flaremesh
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
flaremesh.dev/mesh: {{ .Values.mesh | quote }}
{{- end }}

{{- define "flaremesh.labels" -}}
{{ include "flaremesh.metadataLabels" . }}
app.kubernetes.io/component: {{ include "flaremesh.component" . }}
{{- end }}

{{/* What other participants' NetworkPolicies know a pod by. */}}
{{- define "flaremesh.participantLabels" -}}
flaremesh.dev/mesh: {{ .mesh | quote }}
flaremesh.dev/participant: {{ .name | quote }}
{{- end }}

{{- define "flaremesh.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end }}
{{- end }}
