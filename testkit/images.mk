# Images of our own programs, without Docker: the binary and the libraries of this machine that it names. For the local node only.
IMAGES := $(CARGO_TARGET_DIR)/images
IMAGE_PROGRAMS := mq-operator order-service notification-service
IMAGE_FILES := $(IMAGE_PROGRAMS:%=$(IMAGES)/%.tar)

.PHONY: images
images: rust servers ## operator and demo services as images for the local node
	@echo "mq: building the images of $(IMAGE_PROGRAMS)"
	@# A test target among the wanted ones makes cargo choose the features of the tests: so the tree is compiled once for both.
	@cargo build --workspace --locked $(addprefix --bin ,$(IMAGE_PROGRAMS) mq-demo) --test e2e < /dev/null
	@mkdir -p $(IMAGES)
	@for program in $(IMAGE_PROGRAMS); do \
		strip -o $(IMAGES)/$$program $(CARGO_TARGET_DIR)/debug/$$program; \
		$(MQ_CLUSTER) image mq.test/$$program:dev $(IMAGES)/$$program > $(IMAGES)/$$program.tar.new; \
		mv $(IMAGES)/$$program.tar.new $(IMAGES)/$$program.tar; \
	done
	@echo "mq: images in $(IMAGES): $(notdir $(IMAGE_FILES))"

# A Java program for end-to-end tests, with a Java of its own that has no more than the Kafka client needs.
JAVA_FILES := tests/java/PlainConsumer.java testkit/images.mk $(KAFKA_FILES) $(LAUNCHER_FILES)
JAVA_PROGRAM := $(MQ_CACHE)/java-$(call hash,$(JAVA_FILES))
JAVA_MODULES := java.base,java.management,java.naming,java.security.jgss,java.security.sasl,jdk.unsupported
JAVA_IMAGE := $(JAVA_PROGRAM)/plain-consumer.tar
$(JAVA_IMAGE): | servers
	@hack/tools.sh java
	@echo "mq: building the image of a Java consumer"
	@rm -rf $(JAVA_PROGRAM) && mkdir -p $(JAVA_PROGRAM)/app
	@jlink --add-modules $(JAVA_MODULES) --strip-java-debug-attributes --no-header-files --no-man-pages --output $(JAVA_PROGRAM)/java
	@cp $(KAFKA)/lib/kafka-clients-*.jar $(KAFKA)/lib/slf4j-*.jar $(JAVA_PROGRAM)/app
	@javac -cp '$(JAVA_PROGRAM)/app/*' -d $(JAVA_PROGRAM)/app tests/java/PlainConsumer.java
	@$(MQ_CLUSTER) image mq.test/plain-consumer:dev $(JAVA_PROGRAM)/java/bin/java $(JAVA_PROGRAM)/java=/java $(JAVA_PROGRAM)/app=/app > $@.new
	@mv $@.new $@
