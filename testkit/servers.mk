# Builds the servers of tests and demo into folders that carry their version and the hash of their sources. The launcher's own
# folder links to all of them: a launcher always finds the servers that it was written for beside itself.
KUBERNETES_VERSION := 1.34.4
HELM_VERSION := 3.22.0
COREDNS_VERSION := 1.15.0
KAFKA_VERSION := 4.3.1

hash = $(shell cat $(1) | sha256sum | cut -c1-12)
KUBE_FILES := testkit/cluster/go.mod testkit/cluster/go.sum testkit/cluster/kube/main.go
COREDNS_FILES := testkit/dns/go.mod testkit/dns/go.sum testkit/dns/main.go
KAFKA_FILES := testkit/kafka/pom.xml
LAUNCHER_FILES := $(sort $(wildcard testkit/cluster/mq-cluster/*.go testkit/cluster/mq-cluster/templates/*))

KUBE := $(MQ_CACHE)/kubernetes-$(KUBERNETES_VERSION)-$(call hash,$(KUBE_FILES))/kube
HELM := $(MQ_CACHE)/helm-$(HELM_VERSION)-for-$(KUBERNETES_VERSION)/helm
COREDNS := $(MQ_CACHE)/coredns-$(COREDNS_VERSION)-$(call hash,$(COREDNS_FILES))/coredns
KAFKA := $(MQ_CACHE)/kafka-$(KAFKA_VERSION)-$(call hash,$(KAFKA_FILES))
SERVERS := $(MQ_CACHE)/servers-$(call hash,$(LAUNCHER_FILES) $(KUBE_FILES) $(COREDNS_FILES) $(KAFKA_FILES) testkit/servers.mk)
MQ_CLUSTER := $(SERVERS)/mq-cluster

KUBE_COMPONENTS := etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl
COMPONENT_BASE := k8s.io/component-base/version
KUBE_VERSION_FLAGS := -X $(COMPONENT_BASE).gitVersion=v$(KUBERNETES_VERSION) -X $(COMPONENT_BASE).gitMajor=1 \
	-X $(COMPONENT_BASE).gitMinor=34 -X $(COMPONENT_BASE).gitTreeState=clean \
	-X k8s.io/client-go/pkg/version.gitVersion=v$(KUBERNETES_VERSION)
# What `helm template` and `helm lint` take for the version of the cluster that they do not have.
HELM_FLAGS := -X helm.sh/helm/v3/internal/version.version=v$(HELM_VERSION) \
	$(foreach package,chartutil lint/rules,$(addprefix -X helm.sh/helm/v3/pkg/$(package).k8sVersion,Major=1 Minor=34))
go_build := CGO_ENABLED=0 GOTOOLCHAIN=local go build -trimpath -buildvcs=false

.PHONY: servers
servers: $(MQ_CLUSTER) ## build etcd, Kubernetes, Kafka, DNS, Helm and their launcher (about 10 minutes the first time)
	@touch $(SERVERS) && ln -sfn $(SERVERS) $(MQ_CACHE)/servers
	@test -e $(KAFKA)/classes.jsa || $(MQ_CLUSTER) run --kafka -- true # the first broker writes what makes later ones start fast

$(MQ_CLUSTER): $(KUBE) $(HELM) $(COREDNS) $(KAFKA)/lib
	@rm -rf $(SERVERS).new && mkdir -p $(SERVERS).new
	@for component in $(KUBE_COMPONENTS); do ln -s $(KUBE) $(SERVERS).new/$$component; done
	@ln -s $(HELM) $(COREDNS) $(SERVERS).new/ && ln -s $(KAFKA) $(SERVERS).new/kafka-home
	@cd testkit/cluster && $(go_build) -o $(SERVERS).new/mq-cluster ./mq-cluster
	@rm -rf $(SERVERS) && mv $(SERVERS).new $(SERVERS)
	@hack/prune-servers.sh $(MQ_CACHE)

$(KUBE):
	@hack/tools.sh go
	@echo "mq: building Kubernetes $(KUBERNETES_VERSION) and etcd from their Go modules, about 7 minutes on two cores"
	@mkdir -p $(@D) && cd testkit/cluster && $(go_build) -tags grpcnotrace -ldflags "-s -w $(KUBE_VERSION_FLAGS)" -o $@ ./kube

$(COREDNS):
	@hack/tools.sh go
	@echo "mq: building CoreDNS $(COREDNS_VERSION), about 2 minutes"
	@mkdir -p $(@D) && cd testkit/dns && $(go_build) -ldflags "-s -w" -o $@ .

$(HELM):
	@hack/tools.sh go
	@echo "mq: building Helm $(HELM_VERSION), about 3 minutes"
	@mkdir -p $(@D) && GOBIN=$(@D) CGO_ENABLED=0 GOTOOLCHAIN=local go install -trimpath \
		-ldflags "-s -w $(HELM_FLAGS)" helm.sh/helm/v3/cmd/helm@v$(HELM_VERSION)

$(KAFKA)/lib:
	@hack/tools.sh java
	@echo "mq: fetching Kafka $(KAFKA_VERSION), about a minute"
	@rm -rf $@.new && mkdir -p $(@D)
	@mvn -q -B -f testkit/kafka/pom.xml dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=$@.new < /dev/null
	@mv $@.new $@
