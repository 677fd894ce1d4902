{{/* Pools: entries of workerPools over poolDefaults, and what follows from their sizes. */}}

{{/* (list defaults entry) → JSON of both, the entry's members first. Not mergeOverwrite, which loses 0, false and "". */}}
{{- define "berth.over" -}}
{{- $result := deepCopy (index . 0) -}}
{{- range $key, $value := index . 1 -}}
{{- if and (kindIs "map" $value) (kindIs "map" (index $result $key)) -}}
{{- $_ := set $result $key (include "berth.over" (list (index $result $key) $value) | fromJson) -}}
{{- else -}}
{{- $_ := set $result $key $value -}}
{{- end -}}
{{- end -}}
{{ toJson $result }}
{{- end -}}

{{/* All pools, complete, whichever cell they are in: a JSON list. */}}
{{- define "berth.allPools" -}}
{{- $pools := list -}}
{{- range .Values.workerPools -}}
{{- $pool := include "berth.over" (list $.Values.poolDefaults .) | fromJson -}}
{{- if not $pool.cell }}{{ $_ := set $pool "cell" $.Values.cell }}{{ end -}}
{{- $pools = append $pools $pool -}}
{{- end -}}
{{ toJson $pools }}
{{- end -}}

{{/* The pools whose workloads this release installs. */}}
{{- define "berth.pools" -}}
{{- $pools := list -}}
{{- if .Values.components.workers -}}
{{- range include "berth.allPools" . | fromJsonArray -}}
{{- if eq .cell $.Values.cell }}{{ $pools = append $pools . }}{{ end -}}
{{- end -}}
{{- end -}}
{{ toJson $pools }}
{{- end -}}

{{/* (list $ pool) → RELEASE-pool-JOB */}}
{{- define "berth.poolName" -}}
{{- include "berth.name" (list (index . 0) (printf "pool-%s" (index . 1).name)) -}}
{{- end -}}

{{- define "berth.poolSelector" -}}
{{ include "berth.selector" (list (index . 0) "worker") }}
berth.dev/job: {{ (index . 1).name | quote }}
{{- end -}}

{{/* Labels of a pool's workload and pods that discovery reads. */}}
{{- define "berth.poolLabels" -}}
berth.dev/cell: {{ (index . 0).Values.cell | quote }}
berth.dev/job: {{ (index . 1).name | quote }}
berth.dev/runtime: {{ (index . 1).runtime }}
{{- end -}}

{{/* Whether a deployed pool's replicas may be scaled by Berth: not if this file or an autoscaler sets them. */}}
{{- define "berth.scaledByBerth" -}}
{{- if and (ne .scaling.mode "external") (not (hasKey . "replicas")) }}true{{ end -}}
{{- end -}}

{{/* "8Gi" → 8192 */}}
{{- define "berth.mebibytes" -}}
{{- $number := regexFind "^[0-9]+" . | int64 -}}
{{- if hasSuffix "Gi" . }}{{ mul $number 1024 }}{{ else if hasSuffix "Ti" . }}{{ mul $number 1048576 }}{{ else }}{{ $number }}{{ end -}}
{{- end -}}

{{/* pool → JSON resources of the container that runs the models: its memory is what placement may fill, what a load needs for
     a moment, and the process itself. Request and limit are the same, so that a neighbour cannot take it. */}}
{{- define "berth.modelResources" -}}
{{- $process := 200 -}}
{{- if eq .runtime "triton" -}}
{{- $process = add (include "berth.mebibytes" .triton.overhead) (include "berth.mebibytes" .triton.sharedMemory) -}}
{{- end -}}
{{- $memory := printf "%dMi" (add (include "berth.mebibytes" .memoryPerReplica) (include "berth.mebibytes" .loadHeadroom) $process) -}}
{{- $limits := dict "memory" $memory -}}
{{- if .gpu.count }}{{ $_ := set $limits .gpu.resourceName (int .gpu.count) }}{{ end -}}
{{- include "berth.over" (list (dict "requests" (dict "memory" $memory) "limits" $limits) .resources) -}}
{{- end -}}

{{/* pool → seconds from SIGTERM to the end: routes go, requests under way end (10), versions are unloaded (as long as
     draining may take, and 30). */}}
{{- define "berth.poolGraceSeconds" -}}
{{- add (ceil .drainGraceSeconds | int) 10 (ceil .drainTimeoutSeconds | int) 30 -}}
{{- end -}}

{{/* BERTH_POOLS_FILE: the jobs of all cells. */}}
{{- define "berth.poolsFile" -}}
{{- $pools := list -}}
{{- range include "berth.allPools" . | fromJsonArray -}}
{{- $scaling := dict "mode" .scaling.mode "min_replicas" .scaling.minReplicas "max_replicas" .scaling.maxReplicas "target_queue_ms" .scaling.targetQueueMs "stabilize_down_s" .scaling.stabilizeDownSeconds -}}
{{- $pools = append $pools (dict
  "job" .name
  "cell" .cell
  "runtime" .runtime
  "hardware" .hardware
  "memory_per_replica" (printf "%sB" .memoryPerReplica)
  "service_class" .serviceClass
  "dedicated_tenant" (.dedicatedTenant | default nil)
  "scaling" $scaling) -}}
{{- end -}}
{{ dict "pools" $pools | toPrettyJson }}
{{- end -}}

{{/* Names of the workloads that the synchronizer may scale, a JSON list of "Kind/NAME". */}}
{{- define "berth.scalable" -}}
{{- $names := list -}}
{{- range include "berth.pools" . | fromJsonArray -}}
{{- if include "berth.scaledByBerth" . }}{{ $names = append $names (printf "%s/%s" .kind (include "berth.poolName" (list $ .))) }}{{ end -}}
{{- end -}}
{{ toJson $names }}
{{- end -}}
