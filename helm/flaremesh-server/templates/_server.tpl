{{/* What of the participant's templates is the server's own. */}}
{{- define "flaremesh.server.env" }}{{- end }}
{{- define "flaremesh.server.volumeMounts" }}{{- end }}
{{- define "flaremesh.server.volumes" }}{{- end }}

{{- define "flaremesh.server.resources" -}}
{{ toYaml .Values.resources }}
{{- end }}

{{- define "flaremesh.server.containerPorts" -}}
- name: server
  containerPort: {{ .Values.port }}
{{- if .Values.meetPort }}
- name: meet
  containerPort: {{ .Values.meetPort }}
{{- end }}
{{- end }}

{{- define "flaremesh.server.servicePorts" -}}
- name: server
  port: {{ .Values.port }}
  targetPort: server
{{- if .Values.meetPort }}
- name: meet
  port: {{ .Values.meetPort }}
  targetPort: meet
{{- end }}
{{- end }}

{{- define "flaremesh.server.ingress" -}}
# the sites
{{- range .Values.sites }}
- from: {{- include "flaremesh.peer" (dict "peer" . "mesh" $.Values.mesh) | nindent 4 }}
  ports:
    - port: {{ $.Values.port }}
    {{- if $.Values.meetPort }}
    - port: {{ $.Values.meetPort }}
    {{- end }}
{{- end }}
{{- with .Values.adminLabels }}
# an admin's pod beside the server
- from:
    - podSelector:
        matchLabels: {{- toYaml . | nindent 10 }}
  ports:
    - port: {{ $.Values.port }}
{{- end }}
{{- end }}

{{/* The server dials nobody. */}}
{{- define "flaremesh.server.egress" }}{{- end }}
