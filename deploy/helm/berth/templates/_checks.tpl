{{/* What is wrong only when values are put together, each with a sentence that says what to do. */}}

{{- define "berth.check" -}}
{{- $parts := .Values.components -}}
{{- if gt (len .Release.Name) 35 }}{{ fail "The release's name may have 35 characters: names are made from it." }}{{ end -}}
{{- if not .Values.image.repository }}{{ fail "image.repository: name where you pushed the image that deploy/Dockerfile builds." }}{{ end -}}
{{- if eq .Values.image.tag "latest" }}{{ fail "image.tag: latest says nothing about what runs; name a version." }}{{ end -}}
{{- range $part := list "controller" "synchronizer" "router" }}{{ include "berth.checkEnv" (list $part (index $.Values $part).env) }}{{ end -}}
{{- if $parts.controller -}}
  {{- if and .Values.postgresql.tryout.enabled .Values.database.existingSecret }}{{ fail "database.existingSecret and postgresql.tryout.enabled: choose one." }}{{ end -}}
  {{- if not (or .Values.postgresql.tryout.enabled .Values.database.existingSecret) }}{{ fail "The controller needs PostgreSQL: set database.existingSecret to a secret with a postgresql:// URL, or postgresql.tryout.enabled to try Berth out." }}{{ end -}}
{{- end -}}
{{- if and $parts.synchronizer (not $parts.controller) (not .Values.controllers) }}{{ fail "components.controller is false: name the controllers' desired feeds in `controllers`, as host:port." }}{{ end -}}
{{- if and $parts.router (not $parts.synchronizer) (not .Values.synchronizers) }}{{ fail "components.synchronizer is false: name the route feeds in `synchronizers`, as host:port." }}{{ end -}}
{{- $claim := or .Values.artifacts.claim.create .Values.artifacts.claim.existingClaim -}}
{{- if or $parts.controller $parts.workers -}}
  {{- if and .Values.artifacts.url $claim }}{{ fail "artifacts.url and artifacts.claim: choose one." }}{{ end -}}
  {{- if not (or .Values.artifacts.url $claim) }}{{ fail "Controllers and workers need an artifact store: set artifacts.url to s3://bucket/prefix, or artifacts.claim." }}{{ end -}}
{{- end -}}
{{- if and .Values.artifacts.claim.create .Values.artifacts.claim.existingClaim }}{{ fail "artifacts.claim.create and artifacts.claim.existingClaim: choose one." }}{{ end -}}
{{- if and (eq .Values.tls.mode "secret") (not .Values.tls.existingSecret) }}{{ fail "tls.mode is secret: set tls.existingSecret to a secret with tls.crt, tls.key and ca.crt." }}{{ end -}}
{{- with .Values.router.ingress }}{{ if and .enabled (not .host) }}{{ fail "router.ingress needs a host." }}{{ end }}{{ end -}}
{{- with .Values.router.gateway }}{{ if and .enabled (not .parentRefs) }}{{ fail "router.gateway needs parentRefs: the gateways that the routes belong to." }}{{ end }}{{ end -}}
{{- if and .Values.externalMetrics.enabled (not $parts.controller) }}{{ fail "externalMetrics: controllers answer it, and components.controller is false; enable it in the release that has them." }}{{ end -}}
{{- if and .Values.monitoring.podMonitor.enabled .Values.monitoring.serviceMonitor.enabled }}{{ fail "monitoring.podMonitor and monitoring.serviceMonitor would both scrape every pod: choose one." }}{{ end -}}
{{- if and .Values.otherCellsTls.existingSecret (not .Values.otherCellsTls.enabled) }}{{ fail "otherCellsTls.existingSecret is of no use in cleartext: set otherCellsTls.enabled." }}{{ end -}}
{{- $cells := dict .Values.cell true -}}
{{- range .Values.otherCells -}}
  {{- if eq .cell $.Values.cell }}{{ fail (printf "otherCells: %s is this release's own cell." .cell) }}{{ end -}}
  {{- if hasKey $cells .cell }}{{ fail (printf "otherCells: %s is there twice." .cell) }}{{ end -}}
  {{- $_ := set $cells .cell true -}}
{{- end -}}
{{- $seen := dict -}}
{{- range include "berth.allPools" . | fromJsonArray -}}
  {{- include "berth.checkPool" (list $ .) -}}
  {{- if hasKey $seen .name }}{{ fail (printf "workerPools: %s is there twice." .name) }}{{ end -}}
  {{- $_ := set $seen .name true -}}
{{- end -}}
{{- end -}}

{{- define "berth.checkPool" -}}
{{- $root := index . 0 -}}{{- $pool := index . 1 -}}
{{- $auto := or $pool.hpa.enabled $pool.keda.enabled -}}
{{- $who := printf "workerPools, %s:" $pool.name -}}
{{- include "berth.checkEnv" (list $who $pool.env) -}}
{{- range list $pool.image $pool.triton.image }}{{ if hasSuffix ":latest" . }}{{ fail (printf "%s %s says nothing about what runs; name a version." $who .) }}{{ end }}{{ end -}}
{{- if gt (len (include "berth.poolName" .)) 52 }}{{ fail (printf "%s %s has more than 52 characters; take a shorter name." $who (include "berth.poolName" .)) }}{{ end -}}
{{- if and $pool.hpa.enabled $pool.keda.enabled }}{{ fail (printf "%s hpa and keda would both own its replicas: choose one." $who) }}{{ end -}}
{{- if and $auto (ne $pool.scaling.mode "external") }}{{ fail (printf "%s an autoscaler of Kubernetes owns its replicas: set scaling.mode to external." $who) }}{{ end -}}
{{- if and (hasKey $pool "replicas") (or $auto (ne $pool.scaling.mode "manual")) }}{{ fail (printf "%s replicas in this file and scaling.mode %s would both own its replicas: leave replicas out." $who $pool.scaling.mode) }}{{ end -}}
{{- if gt (int $pool.scaling.minReplicas) (int $pool.scaling.maxReplicas) }}{{ fail (printf "%s scaling.minReplicas is above scaling.maxReplicas." $who) }}{{ end -}}
{{- if and $pool.hpa.enabled (lt (int $pool.scaling.minReplicas) 1) }}{{ fail (printf "%s an HPA cannot scale to zero: set scaling.minReplicas to 1, or use keda." $who) }}{{ end -}}
{{- if and $pool.keda.enabled (not $pool.keda.triggers) (not $pool.keda.prometheusAddress) }}{{ fail (printf "%s keda needs prometheusAddress, or triggers." $who) }}{{ end -}}
{{- if and $pool.keda.enabled $root.Values.externalMetrics.enabled }}{{ fail (printf "%s KEDA serves external.metrics.k8s.io itself, and a cluster has one such API: leave externalMetrics out, and let KEDA scale all pools that Berth does not." $who) }}{{ end -}}
{{- if and $pool.cache.persistent (ne $pool.kind "StatefulSet") }}{{ fail (printf "%s cache.persistent needs kind StatefulSet." $who) }}{{ end -}}
{{- if and (eq (toString $pool.rollout.maxSurge) "0") (eq (toString $pool.rollout.maxUnavailable) "0") }}{{ fail (printf "%s rollout.maxSurge and rollout.maxUnavailable are both 0: nothing could ever be replaced." $who) }}{{ end -}}
{{- if and $pool.gpu.count (eq $pool.runtime "onnxruntime") (not $pool.image) }}{{ fail (printf "%s Berth's image has ONNX Runtime for CPUs: set image to one with CUDA, or runtime to triton." $who) }}{{ end -}}
{{- end -}}

{{- define "berth.checkEnv" -}}
{{- $who := index . 0 -}}
{{- range index . 1 }}{{ if hasPrefix "BERTH_" .name }}{{ fail (printf "%s env: %s belongs into settings, where its name is checked." $who .name) }}{{ end }}{{ end -}}
{{- end -}}
