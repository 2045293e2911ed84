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
