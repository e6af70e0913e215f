{{- define "mirror.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* 52 characters: the controllers add a hash to the names of pods, and a label takes 63. */}}
{{- define "mirror.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "mirror.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "mirror.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "mirror.instance" -}}
app.kubernetes.io/name: {{ include "mirror.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "mirror.selector" -}}
{{ include "mirror.instance" . }}
app.kubernetes.io/component: mirror
{{- end -}}

{{- define "mirror.nodeSelector" -}}
{{ include "mirror.instance" . }}
app.kubernetes.io/component: node-setup
{{- end -}}

{{- define "mirror.labels" -}}
{{ include "mirror.instance" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "mirror.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "mirror.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "mirror.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "mirror.scheme" -}}
{{- if .Values.tls.existingSecret }}https{{ else }}http{{ end -}}
{{- end -}}

{{/* 90 % of persistence.size, in KiB: a number of bytes would be written as 1e+11. */}}
{{- define "mirror.maxSize" -}}
{{- $units := dict "" 1 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 -}}
{{- $size := .Values.persistence.size -}}
{{- $number := regexFind "^[0-9]+([.][0-9]+)?" $size -}}
{{- $bytes := mulf (float64 $number) (float64 (get $units (trimPrefix $number $size))) -}}
{{- printf "%dKiB" (int64 (floor (divf (mulf $bytes 0.9) 1024))) -}}
{{- end -}}

{{/* Seconds of a duration of mirror.yaml: 90s, 1h30m. */}}
{{- define "mirror.seconds" -}}
{{- $units := dict "ms" 0.001 "s" 1 "m" 60 "h" 3600 "d" 86400 "w" 604800 -}}
{{- $total := 0.0 -}}
{{- range regexFindAll "[0-9]+([.][0-9]+)?(ms|s|m|h|d|w)" . -1 -}}
{{- $number := regexFind "^[0-9]+([.][0-9]+)?" . -}}
{{- $total = addf $total (mulf (float64 $number) (float64 (get $units (trimPrefix $number .)))) -}}
{{- end -}}
{{- int64 (ceil $total) -}}
{{- end -}}

{{/* Longer than transfers get to end, or they are killed with the pod. */}}
{{- define "mirror.grace" -}}
{{- $drain := include "mirror.seconds" ((.Values.config.server | default dict).shutdown_timeout | default "30s") | int64 -}}
{{- $given := .Values.terminationGracePeriodSeconds -}}
{{- if kindIs "invalid" $given -}}
{{- add $drain 15 -}}
{{- else if le (int64 $given) $drain -}}
{{- fail (printf "terminationGracePeriodSeconds: %d does not outlast server.shutdown_timeout (%d s); write more, or leave it away" (int64 $given) $drain) -}}
{{- else -}}
{{- int64 $given -}}
{{- end -}}
{{- end -}}

{{/* mirror.yaml. */}}
{{- define "mirror.config" -}}
{{- $listen := list -}}
{{- if or (not .Values.service.ipFamilies) (has "IPv4" .Values.service.ipFamilies) -}}
{{- $listen = append $listen "0.0.0.0:5000" -}}
{{- end -}}
{{- if has "IPv6" .Values.service.ipFamilies -}}
{{- $listen = append $listen "[::]:5000" -}}
{{- end -}}
{{- $server := dict "listen" $listen -}}
{{- if .Values.tls.existingSecret -}}
{{- $_ := set $server "tls" (dict "cert_file" "/etc/mirror/tls/tls.crt" "key_file" "/etc/mirror/tls/tls.key") -}}
{{- end -}}
{{- $config := dict "server" $server "storage" (dict "path" "/var/lib/mirror" "max_size" (include "mirror.maxSize" .)) -}}
{{- $config = mustMergeOverwrite $config (deepCopy .Values.config) -}}
{{- if .Values.credentials.existingSecret -}}
{{- $files := .Values.config.credentials_files | default list -}}
{{- if kindIs "string" $files }}{{ $files = list $files }}{{ end -}}
{{- $_ := set $config "credentials_files" (prepend $files (printf "/etc/mirror/credentials/%s" .Values.credentials.key)) -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* A line for each upstream that is known without being named (WELL_KNOWN of mirror/config/upstreams.py) or configured. */}}
{{- define "mirror.registries" -}}
{{- $all := dict -}}
{{- range list "docker.io" "quay.io" "ghcr.io" "gcr.io" "registry.k8s.io" "mcr.microsoft.com" "public.ecr.aws" "nvcr.io" "lscr.io" "registry.gitlab.com" -}}
{{- $_ := set $all . true -}}
{{- end -}}
{{- range $name, $entry := .Values.config.upstreams -}}
{{- $_ := set $all $name (not (and (kindIs "bool" $entry) (not $entry))) -}}
{{- end -}}
{{- if get $all "*" -}}
_default
{{- else -}}
{{- $names := list -}}
{{- range $name := keys $all | sortAlpha -}}
{{- if and (get $all $name) (ne $name "*") }}{{ $names = append $names $name }}{{ end -}}
{{- end -}}
{{- join "\n" $names -}}
{{- end -}}
{{- end -}}

{{/* Where nodes find the mirror; empty where each node asks at its own address. */}}
{{- define "mirror.nodeUrl" -}}
{{- if .Values.nodeSetup.url -}}
{{- .Values.nodeSetup.url | trimSuffix "/" -}}
{{- else if .Values.tls.existingSecret -}}
{{- fail "nodeSetup.url: with tls nodes must use a name that the certificate holds; write for example https://mirror.example:30500" -}}
{{- else if eq .Values.service.type "ClusterIP" -}}
{{- if not .Values.service.clusterIP -}}
{{- fail "nodeSetup.url: a ClusterIP changes when the Service is made anew; write service.clusterIP, or where nodes find the mirror, or set service.type to NodePort" -}}
{{- end -}}
{{- printf "http://%s:%d" (ternary (printf "[%s]" .Values.service.clusterIP) .Values.service.clusterIP (contains ":" .Values.service.clusterIP)) (int .Values.service.port) -}}
{{- else if not (and (eq .Values.service.type "NodePort") .Values.service.nodePort) -}}
{{- fail "nodeSetup.url: write where nodes find the mirror, for example http://mirror.example:5000, or give service.nodePort a number" -}}
{{- else if eq .Values.service.externalTrafficPolicy "Local" -}}
{{- fail "service.externalTrafficPolicy: with Local only the pod's own node answers; write Cluster, or nodeSetup.url" -}}
{{- end -}}
{{- end -}}
