#include "models/vae_image.h"

#include <doctest/doctest.h>

#include "parameter_table.h"
#include "sparse_checkpoint.h"
#include "temporary_folder.h"

namespace sinter {
namespace {

ParameterTable table_of(const VaeConfig& config, bool encoder = true, bool decoder = true) {
  Dim batch = Dim::symbol("batch"), height = Dim::symbol("height"), width = Dim::symbol("width");
  Graph encoding, decoding;
  build_vae_encoder(encoding, config, batch, height, width);
  build_vae_decoder(decoding, config, batch, height, width);
  verify(encoding);
  verify(decoding);
  ParameterTable table;
  if (encoder) table.add(encoding);
  if (decoder) table.add(decoding);
  return table;
}

VaeConfig detected(const ParameterTable& table) {
  TemporaryFolder folder;
  write_sparse_checkpoint(folder / "vae.safetensors", table.shapes);
  return detect_vae(Weights::plain(Checkpoint::open(folder / "vae.safetensors")));
}

TEST_CASE("autoencoders declare exactly the weights of the released checkpoints") {
  ParameterTable sd = table_of(sd_vae_config()), flux = table_of(flux_vae_config());
  CHECK(sd.shapes.size() == 248);
  CHECK(sd.parameters() == 83653863);
  CHECK(sd.digest() == "fec7616c69c6c82d");
  CHECK(flux.shapes.size() == 244);
  CHECK(flux.parameters() == 83819683);
  CHECK(flux.digest() == "312604292a540d82");
}

TEST_CASE("an autoencoder's config is read back from its weights, also from one half of it") {
  for (const VaeConfig& config : {sd_vae_config(), flux_vae_config()}) {
    CHECK(detected(table_of(config)) == config);
    VaeConfig encoder = config, decoder = config;
    encoder.has_decoder = encoder.post_quant_conv = false;
    decoder.has_encoder = decoder.quant_conv = false;
    CHECK(detected(table_of(config, true, false)) == encoder);
    CHECK(detected(table_of(config, false, true)) == decoder);
  }
}

TEST_CASE("an autoencoder changes sizes by eight exactly") {
  Dim height = Dim::symbol("latent_height"), width = Dim::symbol("latent_width");
  Graph encoding, decoding;
  build_vae_encoder(encoding, sd_vae_config(), 1, height * 8, width * 8);
  build_vae_decoder(decoding, sd_vae_config(), 1, height, width);
  CHECK(encoding.outputs().at(0).value.shape() == Shape{1, 4, height, width});
  CHECK(decoding.outputs().at(0).value.shape() == Shape{1, 3, height * 8, width * 8});
}

}  // namespace
}  // namespace sinter
