{{/* The rules of the file, with what .Values.rules changes of the alerts. */}}
{{- define "flaremesh.monitoring.rules" -}}
{{- $values := .Values.rules }}
{{- $groups := get (.Files.Get "files/rules.yaml" | fromYaml) "groups" }}
{{- $names := list }}
{{- range $group := $groups }}
  {{- $kept := list }}
  {{- range $rule := $group.rules }}
    {{- $change := get $values.alerts ($rule.alert | default "") | default dict }}
    {{- if $rule.alert }}
      {{- $names = append $names $rule.alert }}
      {{- $_ := set $rule.annotations "runbook_url" (replace "docs/runbooks.md" $values.runbooks $rule.annotations.runbook_url) }}
    {{- end }}
    {{- with $change.severity }}{{ $_ := set $rule.labels "severity" . }}{{ end }}
    {{- with $change.for }}{{ $_ := set $rule "for" . }}{{ end }}
    {{- if ne $change.enabled false }}
      {{- $kept = append $kept $rule }}
    {{- end }}
  {{- end }}
  {{- $_ := set $group "rules" $kept }}
{{- end }}
{{- range $name := keys $values.alerts | sortAlpha }}
  {{- if not (has $name $names) }}
    {{- fail (printf "rules.alerts: there is no alert %s; there are %s" $name ($names | uniq | join ", ")) }}
  {{- end }}
{{- end }}
{{- dict "groups" $groups | toYaml }}
{{- end }}
