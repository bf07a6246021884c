{{- define "rulec.labels" -}}
app.kubernetes.io/name: rulec
{{ include "rulec.commonLabels" . }}
{{- end }}

{{- define "rulec.relayLabels" -}}
app.kubernetes.io/name: rulec-relay
{{ include "rulec.commonLabels" . }}
{{- end }}

{{- define "rulec.commonLabels" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "rulec.image" -}}
{{- if .Values.image.digest -}}
image: {{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
image: {{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- if .Values.image.pullPolicy }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end }}
{{- end }}

{{- define "rulec.configMap" -}}
{{ .Values.existingConfigMap | default "rulec" }}
{{- end }}

{{- define "rulec.healthzPort" -}}
{{ .Values.config.healthzBindAddress | default "0.0.0.0:10256" | regexFind "[0-9]+$" }}
{{- end }}

{{- define "rulec.metricsPort" -}}
{{ .Values.config.metricsBindAddress | default "127.0.0.1:10249" | regexFind "[0-9]+$" }}
{{- end }}

{{- define "rulec.relayAddress" -}}
{{- if .Values.relay.address -}}
{{ .Values.relay.address }}
{{- else -}}
rulec-relay.{{ .Release.Namespace }}.svc:18000
{{- end }}
{{- end }}

{{- define "rulec.kubeconfig" -}}
apiVersion: v1
kind: Config
clusters:
  - name: default
    cluster:
      server: {{ .Values.apiServer.url }}
      certificate-authority: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt
users:
  - name: default
    user:
      tokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token
contexts:
  - name: default
    context:
      cluster: default
      user: default
current-context: default
{{- end }}
