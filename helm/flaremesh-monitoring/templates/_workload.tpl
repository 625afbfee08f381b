{{/*
One pod, its Service and its ServiceAccount, under the restricted Pod Security Standard:
(dict "root" $ "component" name "port" number "data" folder "container" YAML "volumes" YAML "config" what restarts it).
*/}}
{{- define "flaremesh.monitoring.workload" -}}
{{- $own := index .root.Values .component }}
{{- $name := include "flaremesh.monitoring.fullname" . }}
{{- $labels := include "flaremesh.monitoring.labels" . | fromYaml }}
{{- $storage := $own.storage }}
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ $name | quote }}
  labels: {{- toYaml $labels | nindent 4 }}
spec:
  serviceName: {{ $name | quote }}
  replicas: 1
  # a mistake can be corrected without deleting the pod that does not get ready for it
  podManagementPolicy: Parallel
  selector:
    matchLabels: {{- include "flaremesh.monitoring.selectorLabels" . | nindent 6 }}
  template:
    metadata:
      labels: {{- merge (deepCopy $labels) $own.podLabels | toYaml | nindent 8 }}
      # a new configuration restarts the pod
      {{- $annotations := dict "checksum/config" (sha256sum .config) }}
      annotations: {{- merge $annotations $own.podAnnotations | toYaml | nindent 8 }}
    spec:
      serviceAccountName: {{ $name | quote }}
      automountServiceAccountToken: {{ eq .component "prometheus" }}
      enableServiceLinks: false
      {{- with .root.Values.imagePullSecrets }}
      imagePullSecrets: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $own.priorityClassName }}
      priorityClassName: {{ . | quote }}
      {{- end }}
      securityContext:
        runAsNonRoot: true
        runAsUser: {{ int64 $own.podSecurity.user }}
        runAsGroup: {{ int64 $own.podSecurity.group }}
        fsGroup: {{ int64 $own.podSecurity.group }}
        fsGroupChangePolicy: OnRootMismatch
        seccompProfile:
          type: RuntimeDefault
      containers:
        - name: {{ .component }}
          {{- with $own.image }}
          image: {{ printf "%s%s" .repository (.digest | empty | ternary (printf ":%s" .tag) (printf "@%s" .digest)) | quote }}
          imagePullPolicy: {{ .pullPolicy }}
          {{- end }}
          ports:
            - name: http
              containerPort: {{ .port }}
          {{- with $own.resources }}
          resources: {{- toYaml . | nindent 12 }}
          {{- end }}
          terminationMessagePolicy: FallbackToLogsOnError
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities:
              drop: [ALL]
          {{- .container | nindent 10 }}
      volumes:
        {{- .volumes | nindent 8 }}
        {{- if not $storage.enabled }}
        - name: data
          emptyDir:
            sizeLimit: {{ $storage.size }}
        {{- else if $storage.existingClaim }}
        - name: data
          persistentVolumeClaim:
            claimName: {{ $storage.existingClaim | quote }}
        {{- end }}
      {{- with $own.nodeSelector }}
      nodeSelector: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $own.tolerations }}
      tolerations: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $own.affinity }}
      affinity: {{- toYaml . | nindent 8 }}
      {{- end }}
  {{- if and $storage.enabled (not $storage.existingClaim) }}
  volumeClaimTemplates:
    - metadata:
        name: data
      spec:
        accessModes: [ReadWriteOnce]
        {{- with $storage.className }}
        storageClassName: {{ . | quote }}
        {{- end }}
        resources:
          requests:
            storage: {{ $storage.size }}
  {{- end }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ $name | quote }}
  labels: {{- toYaml $labels | nindent 4 }}
spec:
  selector: {{- include "flaremesh.monitoring.selectorLabels" . | nindent 4 }}
  ports:
    - name: http
      port: {{ .port }}
      targetPort: http
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ $name | quote }}
  labels: {{- toYaml $labels | nindent 4 }}
automountServiceAccountToken: false
{{- end }}

{{/*
Denies all in both directions except names and what is given, rules as YAML:
(dict "root" $ "component" name "ingress" rules "egress" rules).
*/}}
{{- define "flaremesh.monitoring.policy" -}}
{{- $own := (index .root.Values .component).networkPolicy }}
{{- if $own.enabled -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "flaremesh.monitoring.fullname" . | quote }}
  labels: {{- include "flaremesh.monitoring.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels: {{- include "flaremesh.monitoring.selectorLabels" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    {{- .ingress | nindent 4 }}
    {{- with $own.extraIngress }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  egress:
    # names
    {{- include "flaremesh.dns" $own.dns | nindent 4 }}
    {{- .egress | nindent 4 }}
    {{- with $own.extraEgress }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
{{- end }}
