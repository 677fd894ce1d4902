{{/* What things are called, and how they find each other. */}}

{{/* (list $ "router") → RELEASE-router */}}
{{- define "berth.name" -}}
{{- printf "%s-%s" (index . 0).Release.Name (index . 1) -}}
{{- end -}}

{{/* Labels that select the pods of a component. They never change, nor may they. */}}
{{- define "berth.selector" -}}
app.kubernetes.io/name: berth
app.kubernetes.io/instance: {{ (index . 0).Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of every object. */}}
{{- define "berth.labels" -}}
{{ include "berth.selector" . }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" (index . 0).Chart.Name (index . 0).Chart.Version }}
berth.dev/cell: {{ (index . 0).Values.cell | quote }}
{{- end -}}

{{/* Host for the ports between components. */}}
{{- define "berth.podHost" -}}
{{- if eq .Values.ipFamily "IPv6" }}[$(POD_IP)]{{ else }}$(POD_IP){{ end -}}
{{- end -}}

{{/* Host for the ports for people. */}}
{{- define "berth.openHost" -}}
{{- if eq .Values.listen "podIP" }}{{ include "berth.podHost" . }}{{ else if eq .Values.ipFamily "IPv6" }}[::]{{ else }}0.0.0.0{{ end -}}
{{- end -}}

{{/* host:port of each desired feed, comma-separated. */}}
{{- define "berth.controllers" -}}
{{- if .Values.controllers -}}
{{ join "," .Values.controllers }}
{{- else -}}
{{ include "berth.name" (list . "controller-feed") }}.{{ .Release.Namespace }}.svc:8081
{{- end -}}
{{- end -}}

{{/* host:port of each synchronizer's route feed: all of them, since a router follows whichever leads. */}}
{{- define "berth.routeFeeds" -}}
{{- if .Values.synchronizers -}}
{{ join "," .Values.synchronizers }}
{{- else -}}
{{- $name := include "berth.name" (list . "synchronizer") -}}
{{- $feeds := list -}}
{{- range $i := until (int .Values.synchronizer.replicas) -}}
{{- $feeds = append $feeds (printf "%s-%d.%s.%s.svc:8082" $name $i $name $.Release.Namespace) -}}
{{- end -}}
{{ join "," $feeds }}
{{- end -}}
{{- end -}}

{{- define "berth.artifactStore" -}}
{{- if .Values.artifacts.url }}{{ .Values.artifacts.url }}{{ else }}file:///artifacts{{ end -}}
{{- end -}}

{{/* Name of the claim that artifacts lie on, or nothing. */}}
{{- define "berth.artifactClaim" -}}
{{- if .Values.artifacts.claim.create }}{{ include "berth.name" (list . "artifacts") }}{{ else }}{{ .Values.artifacts.claim.existingClaim }}{{ end -}}
{{- end -}}

{{- define "berth.databaseSecret" -}}
{{- if .Values.postgresql.tryout.enabled }}{{ include "berth.name" (list . "postgresql") }}{{ else }}{{ .Values.database.existingSecret }}{{ end -}}
{{- end -}}

{{- define "berth.bootstrapSecret" -}}
{{- .Values.bootstrap.existingSecret | default (include "berth.name" (list . "bootstrap")) -}}
{{- end -}}

{{/* (list $ "router") → the secret with its certificate */}}
{{- define "berth.tlsSecret" -}}
{{- $root := index . 0 -}}
{{- if eq $root.Values.tls.mode "secret" }}{{ $root.Values.tls.existingSecret }}{{ else }}{{ include "berth.name" (list $root (printf "%s-tls" (index . 1))) }}{{ end -}}
{{- end -}}

{{/* Who signs the release's certificates, as JSON. */}}
{{- define "berth.issuer" -}}
{{- $issuer := .Values.tls.certManager.issuerRef -}}
{{- if not $issuer.name }}{{ $issuer = dict "name" (include "berth.name" (list . "authority")) "kind" "Issuer" "group" "cert-manager.io" }}{{ end -}}
{{ toJson $issuer }}
{{- end -}}

{{/* Which components this release runs, as a JSON list; "worker" if there is a pool here. */}}
{{- define "berth.running" -}}
{{- $running := list -}}
{{- range $part := list "controller" "synchronizer" "router" -}}
{{- if index $.Values.components $part }}{{ $running = append $running $part }}{{ end -}}
{{- end -}}
{{- if include "berth.pools" . | fromJsonArray }}{{ $running = append $running "worker" }}{{ end -}}
{{ toJson $running }}
{{- end -}}
