{{/* What of the participant's templates is a site's own. */}}
{{- define "flaremesh.site.env" -}}
- name: FLAREMESH_GPUS
  value: {{ .Values.gpus.count | quote }}
# `flaremesh pending` and its like in the pod
- name: FLAREMESH_WORKSPACE
  value: /workspace
{{- if not .Values.metrics.share }}
- name: FLAREMESH_SHARE_METRICS
  value: "off"
{{- end }}
{{- if .Values.policy }}
- name: FLAREMESH_POLICY
  value: /policy/policy.yaml
{{- end }}
{{- end }}

{{/* A folder, since Kubernetes brings changes of a ConfigMap into no file that is mounted alone. */}}
{{- define "flaremesh.site.volumeMounts" -}}
{{- if .Values.policy }}
- name: policy
  mountPath: /policy
  readOnly: true
{{- end }}
{{- end }}

{{- define "flaremesh.site.volumes" -}}
{{- if .Values.policy }}
- name: policy
  configMap:
    name: {{ include "flaremesh.fullname" . }}-policy
{{- end }}
{{- end }}

{{- define "flaremesh.site.resources" -}}
{{- $resources := deepCopy .Values.resources }}
{{- if .Values.gpus.count }}
{{- $resources = merge $resources (dict "limits" (dict .Values.gpus.resource .Values.gpus.count)) }}
{{- end }}
{{ toYaml $resources }}
{{- end }}

{{/* The ports of the site's range, of which each run takes one. */}}
{{- define "flaremesh.site.linkPorts" -}}
{{- if .Values.link.firstPort }}
{{- range untilStep (int .Values.link.firstPort) (add1 .Values.link.lastPort | int) 1 }}
- {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "flaremesh.site.containerPorts" -}}
{{- range include "flaremesh.site.linkPorts" . | fromYamlArray }}
- name: link-{{ . }}
  containerPort: {{ . }}
{{- end }}
{{- end }}

{{- define "flaremesh.site.servicePorts" -}}
{{- range include "flaremesh.site.linkPorts" . | fromYamlArray }}
- name: link-{{ . }}
  port: {{ . }}
  targetPort: link-{{ . }}
{{- end }}
{{- end }}

{{- define "flaremesh.site.ingress" -}}
{{- if .Values.link.firstPort }}
# the in-neighbours
{{- range .Values.link.from }}
- from: {{- include "flaremesh.peer" (dict "peer" . "mesh" $.Values.mesh) | nindent 4 }}
  ports:
    - {port: {{ $.Values.link.firstPort }}, endPort: {{ $.Values.link.lastPort }}}
{{- end }}
{{- end }}
{{- end }}

{{- define "flaremesh.site.egress" -}}
# the server, the meeting point, and the out-neighbours
{{- range concat (list .Values.server) .Values.meet .Values.link.to }}
- to: {{- include "flaremesh.peer" (dict "peer" . "mesh" $.Values.mesh) | nindent 4 }}
  ports:
    - {port: {{ .firstPort }}, endPort: {{ .lastPort }}}
{{- end }}
{{- end }}
