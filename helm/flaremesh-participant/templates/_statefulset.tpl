{{- define "flaremesh.statefulset" -}}
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ include "flaremesh.fullname" . | quote }}
  labels: {{- include "flaremesh.labels" . | nindent 4 }}
spec:
  serviceName: {{ include "flaremesh.fullname" . | quote }}
  replicas: 1
  # a mistake can be corrected without deleting the pod that does not get ready for it
  podManagementPolicy: Parallel
  selector:
    matchLabels: {{- include "flaremesh.selectorLabels" . | nindent 6 }}
  template:
    metadata:
      {{- $labels := include "flaremesh.labels" . | fromYaml }}
      labels: {{- merge $labels (include "flaremesh.participantLabels" .Values | fromYaml) .Values.podLabels | toYaml | nindent 8 }}
      # a new kit restarts the pod
      {{- $annotations := dict "checksum/kit" (toJson .Values.kit | sha256sum) }}
      annotations: {{- merge $annotations .Values.podAnnotations | toYaml | nindent 8 }}
    spec:
      serviceAccountName: {{ include "flaremesh.fullname" . | quote }}
      automountServiceAccountToken: false
      enableServiceLinks: false
      {{- with .Values.imagePullSecrets }}
      imagePullSecrets: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.runtimeClassName }}
      runtimeClassName: {{ . | quote }}
      {{- end }}
      {{- with .Values.priorityClassName }}
      priorityClassName: {{ . | quote }}
      {{- end }}
      securityContext:
        runAsNonRoot: true
        runAsUser: {{ int64 .Values.podSecurity.user }}
        runAsGroup: {{ int64 .Values.podSecurity.group }}
        fsGroup: {{ int64 .Values.podSecurity.group }}
        fsGroupChangePolicy: OnRootMismatch
        seccompProfile:
          type: RuntimeDefault
      # SIGTERM makes the agent abort its runs and log out; a preStop hook would have nothing to add
      terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
      containers:
        - name: {{ include "flaremesh.component" . }}
          image: {{ include "flaremesh.image" . | quote }}
          imagePullPolicy: {{ .Values.image.pullPolicy }}
          env:
            - name: FLAREMESH_PARTICIPANT
              value: {{ .Values.name | quote }}
            - name: FLAREMESH_METRICS_PORT
              value: {{ .Values.metrics.port | quote }}
            - name: FLAREMESH_METRICS_DIR
              value: /metrics
            # torch takes as many threads as the pod may use cores, not as many as the node has
            - name: OMP_NUM_THREADS
              valueFrom:
                resourceFieldRef: {resource: limits.cpu}
            {{- include "flaremesh.own" (list . "env") | nindent 12 }}
            {{- with .Values.extraEnv }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          ports:
            - name: metrics
              containerPort: {{ .Values.metrics.port }}
            {{- include "flaremesh.own" (list . "containerPorts") | nindent 12 }}
          # it answers once NVFlare has started; a first start reads the image from disk
          startupProbe:
            httpGet: {path: /healthz, port: metrics}
            periodSeconds: 2
            failureThreshold: {{ div .Values.probes.startupSeconds 2 }}
          # the process hangs
          livenessProbe:
            httpGet: {path: /healthz, port: metrics}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: {{ div .Values.probes.livenessSeconds 10 }}
          # registered with the server, and connected to it
          readinessProbe:
            httpGet: {path: /readyz, port: metrics}
            periodSeconds: 5
            timeoutSeconds: 5
            failureThreshold: 2
          {{- with include "flaremesh.own" (list . "resources") | fromYaml }}
          resources: {{- toYaml . | nindent 12 }}
          {{- end }}
          # why a container ended shows in `kubectl describe pod`
          terminationMessagePolicy: FallbackToLogsOnError
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities:
              drop: [ALL]
          volumeMounts:
            - name: workspace
              mountPath: /workspace
            - name: startup
              mountPath: /workspace/startup
              readOnly: true
            - name: local
              mountPath: /workspace/local
              readOnly: true
            - name: metrics
              mountPath: /metrics
            - name: tmp
              mountPath: /tmp
            - name: shm
              mountPath: /dev/shm
            {{- include "flaremesh.own" (list . "volumeMounts") | nindent 12 }}
            {{- with .Values.extraVolumeMounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
      volumes:
        - name: startup
          secret:
            secretName: {{ include "flaremesh.secret" . | quote }}
            defaultMode: 0440
        - name: local
          configMap:
            name: {{ include "flaremesh.fullname" . | quote }}
        - name: metrics
          emptyDir:
            medium: Memory
            sizeLimit: {{ .Values.memory.metrics }}
        - name: tmp
          emptyDir:
            medium: Memory
            sizeLimit: {{ .Values.memory.tmp }}
        - name: shm
          emptyDir:
            medium: Memory
            sizeLimit: {{ .Values.memory.shm }}
        {{- include "flaremesh.own" (list . "volumes") | nindent 8 }}
        {{- with .Values.storage.existingClaim }}
        - name: workspace
          persistentVolumeClaim:
            claimName: {{ . | quote }}
        {{- end }}
        {{- with .Values.extraVolumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with .Values.nodeSelector }}
      nodeSelector: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.tolerations }}
      tolerations: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.affinity }}
      affinity: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.topologySpreadConstraints }}
      topologySpreadConstraints: {{- toYaml . | nindent 8 }}
      {{- end }}
  {{- if not .Values.storage.existingClaim }}
  # the volume outlives the release: it holds what runs left behind
  volumeClaimTemplates:
    - metadata:
        name: workspace
      spec:
        accessModes: [ReadWriteOnce]
        {{- with .Values.storage.className }}
        storageClassName: {{ . | quote }}
        {{- end }}
        resources:
          requests:
            storage: {{ .Values.storage.size }}
  {{- end }}
{{- end }}
