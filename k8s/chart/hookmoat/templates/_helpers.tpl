{{- define "hookmoat.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 63 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "hookmoat.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "hookmoat.labels" -}}
{{ include "hookmoat.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "hookmoat.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}{{ else }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "hookmoat.container" -}}
- name: hookmoat
  image: {{ include "hookmoat.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  {{- if .Values.app.containers }}
  # A native sidecar: it is up before the application and goes after it.
  restartPolicy: Always
  # Runs when the pod begins to leave, while SIGTERM waits for the application's end: no connection is kept from then on.
  lifecycle:
    preStop:
      exec: { command: [/hookmoat, drain] }
  {{- end }}
  args: [run, --config, /etc/hookmoat/hookmoat.yaml]
  {{- with .Values.extraEnv }}
  env:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  ports:
    - { name: hooks, containerPort: {{ .Values.service.targetPort }} }
    - { name: admin, containerPort: 9901 }
  startupProbe:
    httpGet: { path: /healthz, port: admin }
    periodSeconds: 1
    failureThreshold: 60
  readinessProbe:
    httpGet: { path: /readyz, port: admin }
    periodSeconds: 5
    failureThreshold: 2
  livenessProbe:
    httpGet: { path: /healthz, port: admin }
    periodSeconds: 10
    failureThreshold: 6
  securityContext:
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities: { drop: [ALL] }
  resources:
    {{- toYaml .Values.resources | nindent 4 }}
  volumeMounts:
    - { name: hookmoat-config, mountPath: /etc/hookmoat, readOnly: true }
    - { name: hookmoat-secrets, mountPath: /run/secrets/hookmoat, readOnly: true }
    {{- if .Values.tlsSecretName }}
    - { name: hookmoat-tls, mountPath: /run/tls, readOnly: true }
    {{- end }}
    {{- if .Values.persistence.enabled }}
    - { name: hookmoat-data, mountPath: /var/lib/hookmoat }
    {{- end }}
{{- end }}
