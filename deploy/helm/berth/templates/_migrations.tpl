{{/* Whether a job migrates the database; else controllers do it when they start. */}}
{{- define "berth.migrates" -}}
{{- if and .Values.components.controller .Values.controller.migrationJob (not .Values.postgresql.tryout.enabled) }}true{{ end -}}
{{- end -}}

{{/* Annotations of what runs before the rest; its argument is the order. */}}
{{- define "berth.before" -}}
helm.sh/hook: pre-install,pre-upgrade
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}
