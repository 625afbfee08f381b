{{/* How a NetworkPolicy names a peer: (dict "peer" Peer "mesh" name of the mesh). */}}
{{- define "flaremesh.peer" -}}
{{- if not (or .peer.namespace .peer.cidrs) }}
{{- fail (printf "%s has neither namespace nor cidrs: a policy would admit everybody. Add the file values.yaml of the folder that provisioning wrote (-f values.yaml)." .peer.name) }}
{{- end }}
{{- if .peer.namespace -}}
- namespaceSelector:
    matchLabels:
      kubernetes.io/metadata.name: {{ .peer.namespace | quote }}
  podSelector:
    matchLabels: {{- include "flaremesh.participantLabels" (dict "mesh" .mesh "name" .peer.name) | nindent 6 }}
{{- end }}
{{- range .peer.cidrs }}
- ipBlock:
    cidr: {{ . | quote }}
{{- end }}
{{- end }}

{{/* Denies all in both directions except: DNS, the scraper, the release's own test, and what the chart adds. */}}
{{- define "flaremesh.networkPolicy" -}}
{{- if .Values.networkPolicy.enabled -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "flaremesh.fullname" . | quote }}
  labels: {{- include "flaremesh.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels: {{- include "flaremesh.selectorLabels" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    {{- with include "flaremesh.own" (list . "ingress") | trim }}
    {{- . | nindent 4 }}
    {{- end }}
    # `helm test`
    - from:
        - podSelector:
            matchLabels:
              app.kubernetes.io/instance: {{ .Release.Name | quote }}
              app.kubernetes.io/component: test
      ports:
        - port: {{ .Values.metrics.port }}
    {{- if .Values.metrics.scraperNamespace }}
    - from:
        - namespaceSelector:
            matchLabels:
              kubernetes.io/metadata.name: {{ .Values.metrics.scraperNamespace | quote }}
          {{- with .Values.metrics.scraperLabels }}
          podSelector:
            matchLabels: {{- toYaml . | nindent 14 }}
          {{- end }}
      ports:
        - port: {{ .Values.metrics.port }}
    {{- end }}
    {{- with .Values.networkPolicy.extraIngress }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  egress:
    # names
    {{- include "flaremesh.dns" .Values.networkPolicy.dns | nindent 4 }}
    {{- with include "flaremesh.own" (list . "egress") | trim }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- with .Values.networkPolicy.extraEgress }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
{{- end }}

{{/* The test pod reaches names and the participant's agent. */}}
{{- define "flaremesh.testNetworkPolicy" -}}
{{- if .Values.networkPolicy.enabled -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "flaremesh.fullname" . }}-test
  labels: {{- include "flaremesh.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      app.kubernetes.io/instance: {{ .Release.Name | quote }}
      app.kubernetes.io/component: test
  policyTypes: [Ingress, Egress]
  egress:
    {{- include "flaremesh.dns" .Values.networkPolicy.dns | nindent 4 }}
    - to:
        - podSelector:
            matchLabels: {{- include "flaremesh.selectorLabels" . | nindent 14 }}
      ports:
        - port: {{ .Values.metrics.port }}
{{- end }}
{{- end }}
