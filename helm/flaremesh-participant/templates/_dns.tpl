{{/*
Egress to the cluster's name servers: (values of networkPolicy.dns). One in the network of its node, as NodeLocal
DNSCache is, has an address that no selector finds. The chart of the monitoring has a link to this file.
*/}}
{{- define "flaremesh.dns" -}}
- to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ .namespace | quote }}
      podSelector:
        matchLabels: {{- toYaml .labels | nindent 10 }}
    {{- range .cidrs }}
    - ipBlock:
        cidr: {{ . | quote }}
    {{- end }}
  ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- end }}
