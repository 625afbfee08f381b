{{/* Everything is named after the release, so that the Service has the name that neighbours dial. */}}
{{- define "flaremesh.fullname" -}}
{{ .Release.Name }}
{{- end }}

{{- define "flaremesh.secret" -}}
{{ .Values.kit.existingSecret | default (printf "%s-kit" .Release.Name) }}
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
