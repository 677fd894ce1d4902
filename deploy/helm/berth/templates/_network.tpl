{{/* The arrows of ARCHITECTURE.md, and no other. Rules name a peer by its component; peers outside come from the values. */}}

{{/* (list $ "router") → a peer */}}
{{- define "berth.peer" -}}
- podSelector:
    matchLabels: {{ include "berth.selector" . | nindent 6 }}
{{- end -}}

{{/* (list peers ports): an egress rule to somebody outside */}}
{{- define "berth.egressTo" -}}
- ports:
    {{- range index . 1 }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
  {{- with index . 0 }}
  to: {{ toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- define "berth.egressDns" -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
  {{- with .Values.networkPolicy.dns.to }}
  to: {{ toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- define "berth.egressDatabase" -}}
{{- if .Values.postgresql.tryout.enabled -}}
- ports: [{port: 5432, protocol: TCP}]
  to: {{ include "berth.peer" (list . "postgresql") | nindent 4 }}
{{- else -}}
{{ include "berth.egressTo" (list .Values.networkPolicy.database.to (list .Values.networkPolicy.database.port)) }}
{{- end -}}
{{- end -}}

{{- define "berth.egressArtifacts" -}}
{{- if .Values.artifacts.url -}}
{{ include "berth.egressTo" (list .Values.networkPolicy.artifactStore.to (list .Values.networkPolicy.artifactStore.port)) }}
{{- end -}}
{{- end -}}

{{/* (list $ "router" ingress egress) */}}
{{- define "berth.policy" -}}
{{- $root := index . 0 -}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "berth.name" . }}
  labels: {{ include "berth.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels: {{ include "berth.selector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    {{- index . 2 | nindent 4 }}
  egress:
    {{- index . 3 | nindent 4 }}
    {{- with $root.Values.networkPolicy.extraEgress }}{{ toYaml . | nindent 4 }}{{ end }}
{{- end -}}

{{- define "berth.controllerIngress" -}}
{{- $policy := .Values.networkPolicy -}}
# The control API; its port has the metrics too.
- ports: [{port: 8080, protocol: TCP}]
  {{- with $policy.operators }}
  from: {{ concat . $policy.monitoring | toYaml | nindent 4 }}
  {{- end }}
# The desired feed.
{{- if or .Values.components.synchronizer $policy.cells }}
- ports: [{port: 8081, protocol: TCP}]
  from:
    {{- if .Values.components.synchronizer }}{{ include "berth.peer" (list . "synchronizer") | nindent 4 }}{{ end }}
    {{- with $policy.cells }}{{ toYaml . | nindent 4 }}{{ end }}
{{- end }}
{{- if .Values.externalMetrics.enabled }}
# The external metrics API, which answers nobody but the API server.
- ports: [{port: 8443, protocol: TCP}]
  {{- with $policy.apiServer.from }}
  from: {{ toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "berth.controllerEgress" -}}
{{ include "berth.egressDns" . }}
{{ include "berth.egressDatabase" . }}
{{ include "berth.egressArtifacts" . }}
{{- end -}}

{{- define "berth.synchronizerIngress" -}}
# The route feed.
- ports: [{port: 8082, protocol: TCP}]
  from: {{ include "berth.peer" (list . "router") | nindent 4 }}
{{ include "berth.monitoringIngress" . }}
{{- end -}}

{{- define "berth.synchronizerEgress" -}}
{{ include "berth.egressDns" . }}
{{- if .Values.components.controller }}
- ports: [{port: 8081, protocol: TCP}]
  to: {{ include "berth.peer" (list . "controller") | nindent 4 }}
{{- end }}
{{- with .Values.controllers }}
{{- $ports := list }}
{{- range . }}{{ $ports = append $ports (regexFind "[0-9]+$" .) }}{{ end }}
{{ include "berth.egressTo" (list $.Values.networkPolicy.controllers.to (uniq $ports)) }}
{{- end }}
- ports: [{port: 9000, protocol: TCP}]
  to: {{ include "berth.peer" (list . "worker") | nindent 4 }}
{{ include "berth.egressTo" (list .Values.networkPolicy.apiServer.to .Values.networkPolicy.apiServer.ports) }}
{{- end -}}

{{- define "berth.routerIngress" -}}
# Clients.
- ports: [{port: 8000, protocol: TCP}, {port: 8001, protocol: TCP}]
  {{- with .Values.networkPolicy.clients }}
  from: {{ toYaml . | nindent 4 }}
  {{- end }}
{{ include "berth.monitoringIngress" . }}
{{- end -}}

{{- define "berth.routerEgress" -}}
{{ include "berth.egressDns" . }}
- ports: [{port: 9001, protocol: TCP}, {port: 9002, protocol: TCP}]
  to: {{ include "berth.peer" (list . "worker") | nindent 4 }}
{{- if .Values.components.synchronizer }}
- ports: [{port: 8082, protocol: TCP}]
  to: {{ include "berth.peer" (list . "synchronizer") | nindent 4 }}
{{- end }}
{{- with .Values.otherCells }}
{{- $ports := list }}
{{- range . }}{{ $ports = concat $ports (list (regexFind "[0-9]+$" .rest) (regexFind "[0-9]+$" .grpc)) }}{{ end }}
{{ include "berth.egressTo" (list $.Values.networkPolicy.otherCells.to (uniq $ports)) }}
{{- end }}
{{- end -}}

{{- define "berth.workerIngress" -}}
- ports: [{port: 9000, protocol: TCP}]
  from: {{ include "berth.peer" (list . "synchronizer") | nindent 4 }}
- ports: [{port: 9001, protocol: TCP}, {port: 9002, protocol: TCP}]
  from: {{ include "berth.peer" (list . "router") | nindent 4 }}
{{ include "berth.monitoringIngress" . }}
{{- end -}}

{{- define "berth.workerEgress" -}}
{{ include "berth.egressDns" . }}
{{ include "berth.egressArtifacts" . }}
{{- end -}}

{{- define "berth.postgresqlIngress" -}}
- ports: [{port: 5432, protocol: TCP}]
  from: {{ include "berth.peer" (list . "controller") | nindent 4 }}
{{- end -}}

{{/* Probes come from the node, which policies do not hold back. */}}
{{- define "berth.monitoringIngress" -}}
{{- with .Values.networkPolicy.monitoring -}}
- ports: [{port: 9100, protocol: TCP}]
  from: {{ toYaml . | nindent 4 }}
{{- end -}}
{{- end -}}
