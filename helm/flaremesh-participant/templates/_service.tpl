{{/* The name that others dial. Links and registration must work before the pod counts as ready. */}}
{{- define "flaremesh.service" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "flaremesh.fullname" . | quote }}
  labels: {{- include "flaremesh.labels" . | nindent 4 }}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector: {{- include "flaremesh.selectorLabels" . | nindent 4 }}
  ports:
    - name: metrics
      port: {{ .Values.metrics.port }}
      targetPort: metrics
    {{- include "flaremesh.own" (list . "servicePorts") | nindent 4 }}
{{- end }}

{{/* The same ports for those outside the cluster. */}}
{{- define "flaremesh.externalService" -}}
{{- $ports := include "flaremesh.own" (list . "servicePorts") | fromYamlArray }}
{{- if and $ports (ne .Values.service.type "ClusterIP") -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "flaremesh.fullname" . }}-external
  labels: {{- include "flaremesh.labels" . | nindent 4 }}
  {{- with .Values.service.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ .Values.service.type }}
  publishNotReadyAddresses: true
  selector: {{- include "flaremesh.selectorLabels" . | nindent 4 }}
  {{- with .Values.service.loadBalancerSourceRanges }}
  loadBalancerSourceRanges: {{- toYaml . | nindent 4 }}
  {{- end }}
  ports:
    {{- range $ports }}
    - name: {{ .name }}
      port: {{ .port }}
      targetPort: {{ .targetPort }}
      {{- if eq $.Values.service.type "NodePort" }}
      nodePort: {{ .port }}
      {{- end }}
    {{- end }}
{{- end }}
{{- end }}
