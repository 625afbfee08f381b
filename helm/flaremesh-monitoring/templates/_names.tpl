{{/* Each takes (dict "root" $ "component" prometheus or grafana). */}}
{{- define "flaremesh.monitoring.fullname" -}}
{{ .root.Release.Name }}-{{ .component }}
{{- end }}

{{- define "flaremesh.monitoring.selectorLabels" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "flaremesh.monitoring.labels" -}}
{{ include "flaremesh.monitoring.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: flaremesh
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{/* What discovery, monitors and policies know the participants' pods by. */}}
{{- define "flaremesh.monitoring.participants" -}}
app.kubernetes.io/part-of: flaremesh
{{- end }}

{{/* Where Grafana finds Prometheus. */}}
{{- define "flaremesh.monitoring.prometheusUrl" -}}
{{- if .Values.grafana.prometheusUrl -}}
{{ .Values.grafana.prometheusUrl }}
{{- else -}}
http://{{ include "flaremesh.monitoring.fullname" (dict "root" . "component" "prometheus") }}:9090
{{- end }}
{{- end }}

{{/* A list of JSON files, the dashboards. */}}
{{- define "flaremesh.monitoring.dashboards" -}}
{{- range $path, $text := .Files.Glob "files/dashboards/*.json" }}
{{- if gt (len $text) 1000000 }}
{{- fail (printf "%s has %d bytes, and a ConfigMap holds 1 MiB" $path (len $text)) }}
{{- end }}
- {{ base $path | trimSuffix ".json" }}
{{- end }}
{{- end }}
