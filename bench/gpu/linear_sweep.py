"""The part `linear-sweep`: the skinny product's configurations at real models' shapes, cuBLAS beside the best of each."""

from bench.gpu.child import Say, Setup


def run(setup: Setup, say: Say) -> None:
    """The shapes of Llama-3-8B, all in a long run. The rows hold the configurations, for a table of tuned ones."""
    if setup.rehearse:
        say("sweep", error="needs a GPU")
        return
    from bench.gpu.linear import SHAPES, measure

    for shape in SHAPES if setup.long else SHAPES[:5]:
        with say.case("x".join(map(str, shape))):
            for key, found in measure((shape,)).items():
                say(
                    key,
                    us=found["us"],
                    gb_per_s=found["gb_s"],
                    of_read=setup.of_read(found["gb_s"] * 1e9),
                    times_cublas=found["cublas_us"] / found["us"],
                    config="/".join(str(int(value)) for value in found["config"].values()),
                )
                say(f"{key} all", minor=True, tried=found["all"])
