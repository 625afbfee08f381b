{{- define "flaremesh.monitoring.prometheus.config" -}}
prometheus.yml: |
  global:
    scrape_interval: {{ .Values.prometheus.interval }}
    evaluation_interval: {{ .Values.prometheus.interval }}
  rule_files: [rules.yaml]
  {{- with .Values.prometheus.alertmanagers }}
  alerting:
    alertmanagers:
      - static_configs:
          - targets: {{- toYaml . | nindent 14 }}
  {{- end }}
  scrape_configs:
    {{- tpl (.Files.Get "files/scrape-config.yaml") . | trim | nindent 4 }}
rules.yaml: |
  {{- include "flaremesh.monitoring.rules" . | nindent 2 }}
{{- end }}
