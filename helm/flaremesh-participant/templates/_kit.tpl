{{- define "flaremesh.kit" -}}
{{- if not .Values.kit.existingSecret -}}
apiVersion: v1
kind: Secret
metadata:
  name: {{ include "flaremesh.secret" . | quote }}
  labels: {{- include "flaremesh.labels" . | nindent 4 }}
type: Opaque
stringData: {{- toYaml .Values.kit.startup | nindent 2 }}
{{- end }}
{{- end }}

{{- define "flaremesh.local" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "flaremesh.fullname" . | quote }}
  labels: {{- include "flaremesh.labels" . | nindent 4 }}
data: {{- toYaml .Values.kit.local | nindent 2 }}
{{- end }}
