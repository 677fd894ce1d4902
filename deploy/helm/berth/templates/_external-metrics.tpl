{{/* What the external metrics API needs of the cluster: whom it may believe, and who believes it. */}}

{{/* Whose certificates the API server's front proxy shows, as JSON: ca (PEM, or "" where a given config map has it) and names
     ([]: any). The cluster says both where it can be asked; where charts are rendered without one, the values must. */}}
{{- define "berth.frontProxy" -}}
{{- $given := .Values.externalMetrics.frontProxy -}}
{{- $ca := $given.ca -}}{{- $names := $given.allowedNames -}}
{{- if not (or $ca $given.existingConfigMap) -}}
  {{- $known := (lookup "v1" "ConfigMap" "kube-system" "extension-apiserver-authentication").data | default dict -}}
  {{- $ca = get $known "requestheader-client-ca-file" -}}
  {{- if not $ca }}{{ fail "externalMetrics: nobody says here whose certificates the API server's front proxy shows (kube-system/extension-apiserver-authentication cannot be read): give externalMetrics.frontProxy.ca or existingConfigMap, and allowedNames." }}{{ end -}}
  {{- if kindIs "invalid" $names }}{{ $names = get $known "requestheader-allowed-names" | default "[]" | fromJsonArray }}{{ end -}}
{{- end -}}
{{- if kindIs "invalid" $names }}{{ fail "externalMetrics.frontProxy.allowedNames: with an authority of your own, say which common names of it are the front proxy's (requestheader-allowed-names); [] means any." }}{{ end -}}
{{ dict "ca" $ca "names" $names | toJson }}
{{- end -}}

{{/* The secret with the certificate that is shown to the API server. */}}
{{- define "berth.externalMetricsSecret" -}}
{{- if eq .Values.tls.mode "secret" }}{{ .Values.externalMetrics.existingSecret | default .Values.tls.existingSecret }}{{ else }}{{ include "berth.name" (list . "external-metrics-tls") }}{{ end -}}
{{- end -}}

{{/* The authority of that certificate in base64; nothing where cert-manager writes it. */}}
{{- define "berth.externalMetricsBundle" -}}
{{- if .Values.externalMetrics.caBundle -}}
{{ b64enc .Values.externalMetrics.caBundle }}
{{- else if eq .Values.tls.mode "secret" -}}
  {{- $secret := include "berth.externalMetricsSecret" . -}}
  {{- $bundle := get ((lookup "v1" "Secret" .Release.Namespace $secret).data | default dict) "ca.crt" -}}
  {{- if not $bundle }}{{ fail (printf "externalMetrics.caBundle: give the authority that signed the certificate in secret %s; its ca.crt cannot be read here." $secret) }}{{ end -}}
  {{- $bundle -}}
{{- end -}}
{{- end -}}

{{- define "berth.externalMetricsEnv" -}}
- name: BERTH_EXTERNAL_METRICS_ADDRESS
  value: "{{ include "berth.podHost" . }}:8443"
- name: BERTH_EXTERNAL_METRICS_CERT
  value: /etc/berth/external-metrics/tls.crt
- name: BERTH_EXTERNAL_METRICS_KEY
  value: /etc/berth/external-metrics/tls.key
- name: BERTH_EXTERNAL_METRICS_CLIENT_CA
  value: /etc/berth/front-proxy/ca.crt
- name: BERTH_EXTERNAL_METRICS_CLIENT_NAMES
  value: {{ (include "berth.frontProxy" . | fromJson).names | join "," | quote }}
{{- end -}}

{{- define "berth.externalMetricsMounts" -}}
- {name: external-metrics, mountPath: /etc/berth/external-metrics, readOnly: true}
- {name: front-proxy, mountPath: /etc/berth/front-proxy, readOnly: true}
{{- end -}}

{{- define "berth.externalMetricsVolumes" -}}
- name: external-metrics
  secret:
    secretName: {{ include "berth.externalMetricsSecret" . }}
    defaultMode: 0440
    items: [{key: tls.crt, path: tls.crt}, {key: tls.key, path: tls.key}]
- name: front-proxy
  configMap:
    {{- with .Values.externalMetrics.frontProxy }}
    {{- if .existingConfigMap }}
    name: {{ .existingConfigMap }}
    items: [{key: {{ .key }}, path: ca.crt}]
    {{- else }}
    name: {{ include "berth.name" (list $ "front-proxy") }}
    {{- end }}
    {{- end }}
{{- end -}}
