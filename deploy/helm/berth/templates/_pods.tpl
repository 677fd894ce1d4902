{{/* What the pods of all components have in common. */}}

{{- define "berth.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest }}{{ $image.repository }}@{{ $image.digest }}{{ else }}{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}{{ end -}}
{{- end -}}

{{/* Pod Security "restricted" and a little more. */}}
{{- define "berth.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "berth.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* (list $ "router" values selector-labels): where its pods run */}}
{{- define "berth.scheduling" -}}
{{- $root := index . 0 -}}{{- $values := index . 2 -}}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- $node := deepCopy $values.nodeSelector }}
{{- with $values.zone }}{{ $_ := set $node "topology.kubernetes.io/zone" . }}{{ end }}
{{- with $node }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- if kindIs "slice" $values.topologySpreadConstraints }}
{{- with $values.topologySpreadConstraints }}
topologySpreadConstraints: {{ toYaml . | nindent 2 }}
{{- end }}
{{- else }}
topologySpreadConstraints:
  {{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - topologyKey: {{ $key }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{ index $ 3 | nindent 8 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Variables of every process. POD_IP comes first: later ones refer to it. */}}
{{- define "berth.commonEnv" -}}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
- name: BERTH_INSTANCE
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: BERTH_CELL
  value: {{ .Values.cell | quote }}
- name: BERTH_LOG_LEVEL
  value: {{ .Values.logLevel }}
- name: BERTH_TLS_CERT
  value: /etc/berth/tls/tls.crt
- name: BERTH_TLS_KEY
  value: /etc/berth/tls/tls.key
- name: BERTH_TLS_CA
  value: /etc/berth/tls/ca.crt
- name: BERTH_TLS_PEER_NAME
  value: {{ .Values.tls.peerName }}
{{- end -}}

{{- define "berth.zoneEnv" -}}
- name: BERTH_ZONE
  valueFrom: {fieldRef: {fieldPath: "metadata.labels['topology.kubernetes.io/zone']"}}
{{- end -}}

{{- define "berth.adminEnv" -}}
- name: BERTH_ADMIN_ADDRESS
  value: "{{ include "berth.openHost" . }}:9100"
{{- end -}}

{{/* values → what its settings and env add */}}
{{- define "berth.otherCells" -}}
{{- $places := list -}}
{{- range . }}{{ $places = append $places (printf "%s=%s/%s" .cell .rest .grpc) }}{{ end -}}
{{- join "," $places -}}
{{- end -}}

{{- define "berth.furtherEnv" -}}
{{- range $name, $value := .settings }}
- name: {{ $name }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- with .env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Where artifacts are, and how to get at them. */}}
{{- define "berth.artifactEnv" -}}
{{- $s3 := .Values.artifacts.s3 -}}
- name: BERTH_ARTIFACT_STORE
  value: {{ include "berth.artifactStore" . | quote }}
{{- with $s3.region }}
- name: AWS_REGION
  value: {{ . | quote }}
{{- end }}
{{- with $s3.endpoint }}
- name: AWS_ENDPOINT_URL
  value: {{ . | quote }}
{{- end }}
{{- if $s3.existingSecret }}
- name: AWS_ACCESS_KEY_ID
  valueFrom: {secretKeyRef: {name: {{ $s3.existingSecret }}, key: {{ $s3.accessKeyIdKey }}}}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ $s3.existingSecret }}, key: {{ $s3.secretAccessKeyKey }}}}
{{- end }}
{{- end -}}

{{/* (list $ "router"): volumes of every pod. The file system of the image is read-only. */}}
{{- define "berth.volumes" -}}
- name: tls
  secret:
    secretName: {{ include "berth.tlsSecret" . }}
    defaultMode: 0440
- name: tmp
  emptyDir: {}
{{- end -}}

{{- define "berth.mounts" -}}
- {name: tls, mountPath: /etc/berth/tls, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- end -}}

{{/* (list port-name seconds-to-start): probes of a port with /healthz and /readyz. Killing a slow process helps nobody:
     liveness is patient. */}}
{{- define "berth.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: {{ index . 0 }}}
  periodSeconds: 2
  timeoutSeconds: 3
  failureThreshold: {{ div (index . 1) 2 }}
livenessProbe:
  httpGet: {path: /healthz, port: {{ index . 0 }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: {{ index . 0 }}}
  periodSeconds: 3
  timeoutSeconds: 3
  failureThreshold: 2
{{- end -}}

{{/* (list $ name component maxUnavailable selector) */}}
{{- define "berth.disruptionBudget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ index . 1 }}
  labels: {{ include "berth.labels" (list (index . 0) (index . 2)) | nindent 4 }}
spec:
  maxUnavailable: {{ index . 3 }}
  # A pod that is broken anyway must not hold up a node that is to go.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels: {{ index . 4 | nindent 6 }}
{{- end -}}
