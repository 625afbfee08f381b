{{- define "flaremesh.serviceAccount" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "flaremesh.fullname" . | quote }}
  labels: {{- include "flaremesh.labels" . | nindent 4 }}
automountServiceAccountToken: false
{{- end }}

{{- define "flaremesh.podDisruptionBudget" -}}
{{- if .Values.podDisruptionBudget.enabled -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "flaremesh.fullname" . | quote }}
  labels: {{- include "flaremesh.labels" . | nindent 4 }}
spec:
  minAvailable: 1
  selector:
    matchLabels: {{- include "flaremesh.selectorLabels" . | nindent 6 }}
{{- end }}
{{- end }}

{{- define "flaremesh.validate" -}}
{{- if not (or .Values.kit.existingSecret .Values.kit.startup) }}
{{- fail (printf "%s: no kit. Add the file kit.yaml of the folder that provisioning wrote (-f kit.yaml), or make a Secret of the kit and name it in kit.existingSecret." .Values.name) }}
{{- end }}
{{- if not .Values.kit.local }}
{{- fail (printf "%s: kit.local is empty. Add the file values.yaml of the folder that provisioning wrote (-f values.yaml)." .Values.name) }}
{{- end }}
{{- end }}

{{/* Asks the participant's agent what is wrong, and fails if anything is. */}}
{{- define "flaremesh.test" -}}
apiVersion: v1
kind: Pod
metadata:
  name: {{ include "flaremesh.fullname" . }}-test
  labels:
    {{- include "flaremesh.metadataLabels" . | nindent 4 }}
    app.kubernetes.io/component: test
  annotations:
    helm.sh/hook: test
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  restartPolicy: Never
  serviceAccountName: {{ include "flaremesh.fullname" . | quote }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: {{ int64 .Values.podSecurity.user }}
    runAsGroup: {{ int64 .Values.podSecurity.group }}
    seccompProfile:
      type: RuntimeDefault
  containers:
    - name: test
      image: {{ include "flaremesh.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      command: [tini, --, python, -m, flaremesh.metrics.ask]
      args: ["http://{{ include "flaremesh.fullname" . }}:{{ .Values.metrics.port }}/doctor"]
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
{{- end }}
