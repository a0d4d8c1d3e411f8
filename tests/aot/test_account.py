import pytest
from aot.account import KernelRun, UnknownInstruction, account
from aot.chips import V5E
from aot.costs import COPIES, EXPOSED, FUSIONS, MATMULS, REST
from aot.hlo import parse_module
from aot.network import HIGH, Assumptions, Network

MEGABYTE = 2**20

POD = [(x, y) for x in range(16) for y in range(16)]
RINGS = Network(V5E, POD, Assumptions("no latency", link_efficiency=1.0, hop_seconds=0.0, hides=True))
"""A slice of 16x16, whose sides are rings: 60 bytes a cycle, both directions together."""


def estimate(cycles):
    return f'backend_config={{"window_config":{{"estimated_cycles":"{cycles}"}}}}'


def program(body, computations=""):
    """A program with an array of 1 MiB in HBM (%x) and one in VMEM (%y); `body` is what it does."""
    return parse_module(f"""HloModule m, is_scheduled=true

%product (a: bf16[512,512], b: bf16[512,512]) -> bf16[512,512] {{
  %a = bf16[512,512]{{1,0:T(8,128)(2,1)}} parameter(0)
  %b = bf16[512,512]{{1,0:T(8,128)(2,1)}} parameter(1)
  ROOT %dot = bf16[512,512]{{1,0:T(8,128)(2,1)}} convolution(%a, %b), dim_labels=bf_io->bf
}}

%turn (a.1: f32[512,512]) -> f32[512,512] {{
  %a.1 = f32[512,512]{{1,0:T(8,128)}} parameter(0)
  ROOT %turned = f32[512,512]{{0,1:T(8,128)}} copy(%a.1)
}}

%double (a.2: f32[512,512]) -> f32[512,512] {{
  %a.2 = f32[512,512]{{1,0:T(8,128)}} parameter(0)
  ROOT %sum = f32[512,512]{{1,0:T(8,128)}} add(%a.2, %a.2)
}}
{computations}
ENTRY %main (x: f32[512,512], y: f32[512,512]) -> f32[] {{
  %x = f32[512,512]{{1,0:T(8,128)}} parameter(0)
  %y = f32[512,512]{{1,0:T(8,128)S(1)}} parameter(1)
{body}
}}
""")


def fusion(name, calls, cycles):
    return f"  %{name} = f32[512,512]{{1,0:T(8,128)}} fusion(%x), kind=kLoop, calls=%{calls}, {estimate(cycles)}"


def charged(body, computations="", **options):
    return account(program(body, computations), RINGS, {}, **options)


def test_estimates_by_class():
    result = charged(
        "\n".join(
            [
                fusion("f.1", "product", 1000),
                fusion("f.2", "turn", 200),
                fusion("f.3", "double", 30),
                f"  %c = bf16[512,512]{{1,0}} convert(%x), {estimate(4)}",
            ]
        )
    )
    assert {k: v for k, v in result.by_class.items() if v} == {MATMULS: 1000, COPIES: 200, FUSIONS: 30, REST: 4}
    assert result.cycles == 1234
    assert result.charged_by_bytes == []


def test_what_has_no_estimate_is_charged_by_its_hbm_bytes():
    result = charged("  %c = f32[512,512]{1,0:T(8,128)S(1)} copy(%x)\n  %d = f32[512,512]{1,0:T(8,128)} negate(%x)")
    copy, negate = sorted(result.charged_by_bytes, key=lambda cost: cost.name)
    assert copy.cycles == MEGABYTE / 546  # one side is in VMEM
    assert negate.cycles == 2 * MEGABYTE / 546


START = (
    "  %s = (f32[512,512]{1,0:T(8,128)S(1)}, f32[512,512]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%x)",
    "  %d = f32[512,512]{1,0:T(8,128)S(1)} copy-done(%s)",
)


@pytest.mark.parametrize("work", [0, 500, 5000])
def test_a_copy_costs_what_the_work_beside_it_does_not_hide(work):
    result = charged("\n".join([START[0], fusion("f", "double", work), START[1]]))
    assert result.cycles == pytest.approx(max(MEGABYTE / 546, work))
    assert result.by_class[FUSIONS] == work


def test_copies_share_the_memory():
    second = [line.replace("%s ", "%s2 ").replace("%d ", "%d2 ").replace("(%s)", "(%s2)") for line in START]
    result = charged("\n".join([START[0], second[0], fusion("f", "double", 100), second[1], START[1]]))
    assert result.cycles == pytest.approx(2 * MEGABYTE / 546)


COLLECTIVES = {
    "all-reduce": 2 * 15 / 16 * MEGABYTE / 60,
    "reduce-scatter": 15 / 16 * MEGABYTE / 60,
    "all-to-all": 15 / 16 * MEGABYTE / 60,
    "all-gather": 15 * MEGABYTE / 60,
    "collective-permute": MEGABYTE / 30,
}


@pytest.mark.parametrize("kind", COLLECTIVES)
@pytest.mark.parametrize("work", [0, 10_000, 10**6])
def test_hidden_and_exposed_cycles_of_a_collective(kind, work):
    shape = "f32[512,512]{1,0:T(8,128)}"
    groups = "source_target_pairs={{0,1}}" if kind == "collective-permute" else "replica_groups=[16,16]<=[256]"
    result = charged(
        "\n".join(
            [
                f"  %s = ({shape}, {shape}, u32[]) {kind}-start(%x), channel_id=1, {groups}",
                fusion("f", "double", work),
                f"  %d = {shape} {kind}-done(%s)",
            ]
        )
    )
    (collective,) = result.collectives
    duration = COLLECTIVES[kind]
    assert collective.hidden == pytest.approx(min(work, duration))
    assert collective.exposed == pytest.approx(max(0, duration - work))
    assert result.by_class[EXPOSED] == collective.exposed
    assert collective.group == (0 if kind == "collective-permute" else 16)


def test_a_collective_without_start_and_done_is_exposed():
    result = charged("  %r = f32[512,512]{1,0:T(8,128)} all-reduce(%x), replica_groups={{0,1}}, to_apply=%double")
    assert result.cycles == pytest.approx(MEGABYTE / 30)  # neighbors have one link


def test_by_the_high_figure_work_hides_no_collective():
    lines, links = chain_of_fusions(0, 5000)
    slow = account(program("\n".join(lines), links), Network(V5E, POD, HIGH), {})
    (collective,) = slow.collectives
    assert (collective.hidden, collective.exposed) == pytest.approx((0, MEGABYTE / 30 / (560 / 680)))
    assert slow.cycles == pytest.approx(5000 + collective.exposed)


def chain_of_fusions(number, work, notes=""):
    """Lines of three fusions that gather 1 MiB on two devices, the middle one `work` cycles long, and what they call."""
    shape = "f32[512,512]{1,0:T(8,128)}"
    gather = f"{shape} all-gather(%p), channel_id=9, replica_groups=[1,2]<=[2], dimensions={{0}}{notes}"
    links = "".join(
        f"\n%link.{number}.{n} (p: f32[512,512]) -> f32[512,512] {{\n  %p = {shape} parameter(0)\n"
        f"  ROOT %g.{number}.{n} = {gather}\n}}\n"
        for n in range(3)
    )
    lines = (
        f"  %start.{number} = {shape} fusion(%x), kind=kCustom, calls=%link.{number}.0",
        fusion(f"middle.{number}", f"link.{number}.1", work),
        f"  %done.{number} = {shape} fusion(%x), kind=kCustom, calls=%link.{number}.2",
    )
    return lines, links


def test_a_collective_in_a_chain_of_fusions_is_hidden_by_their_work():
    lines, links = chain_of_fusions(0, 5000)
    (collective,) = (result := charged("\n".join(lines), links)).collectives
    assert (collective.hidden, collective.exposed) == pytest.approx((5000, MEGABYTE / 30 - 5000))
    assert result.cycles == pytest.approx(MEGABYTE / 30)


def test_two_chains_of_one_channel_are_two_collectives():
    (first, first_links), (second, second_links) = (
        chain_of_fusions(n, work, f', frontend_attributes={{chain_id="{n}"}}') for n, work in enumerate([5000, 7000])
    )
    duration = MEGABYTE / 30
    result = charged("\n".join(first + second), first_links + second_links)
    assert [(c.hidden, c.exposed) for c in result.collectives] == [
        pytest.approx((work, duration - work)) for work in (5000, 7000)
    ]
    assert result.cycles == pytest.approx(2 * duration)
    # Begun before the first one is done, the second one waits for the links.
    result = charged("\n".join([first[0], second[0], first[1], second[1], first[2], second[2]]), first_links + second_links)
    assert len(result.collectives) == 2
    assert result.cycles == pytest.approx(2 * duration)


def test_loops_inside_loops_multiply():
    def loop(name, trips, work):
        return f"""
%body.{name} (p.{name}: (s32[])) -> (s32[]) {{
  %p.{name} = (s32[]{{:S(6)}}) parameter(0)
  %i.{name} = s32[]{{:S(6)}} get-tuple-element(%p.{name}), index=0
  %one.{name} = s32[]{{:S(6)}} constant(1)
  %x.{name} = f32[512,512]{{1,0}} iota(), {estimate(0)}
{work}
  %n.{name} = s32[]{{:S(6)}} add(%i.{name}, %one.{name}), {estimate(0)}
  ROOT %t.{name} = (s32[]{{:S(6)}}) tuple(%n.{name})
}}

%condition.{name} (q.{name}: (s32[])) -> pred[] {{
  %q.{name} = (s32[]{{:S(6)}}) parameter(0)
  %j.{name} = s32[]{{:S(6)}} get-tuple-element(%q.{name}), index=0
  %end.{name} = s32[]{{:S(6)}} constant({trips})
  ROOT %less.{name} = pred[] compare(%j.{name}, %end.{name}), direction=LT
}}
"""

    def run(name):
        return (
            f"  %zero.{name} = s32[]{{:S(6)}} constant(0)\n  %init.{name} = (s32[]{{:S(6)}}) tuple(%zero.{name})\n"
            f"  %w.{name} = (s32[]{{:S(6)}}) while(%init.{name}), condition=%condition.{name}, body=%body.{name}"
        )

    inner = loop("inner", 7, fusion("f.1", "double", 11).replace("%x", "%x.inner"))
    outer = loop("outer", 3, run("inner") + "\n" + fusion("f.2", "double", 100).replace("%x", "%x.outer"))
    result = charged(run("outer"), inner + outer)
    assert result.cycles == 3 * (7 * 11 + 100)
    assert {cost.name: cost.runs for cost in result.costs if cost.cycles} == {"f.1": 21, "f.2": 3}


def test_only_the_costliest_branch_counts():
    branches = "".join(
        f"\n%branch.{n} (x: f32[512,512]) -> f32[512,512] {{\n  %x = f32[512,512]{{1,0}} parameter(0)\n"
        f"{fusion(f'f.{n}', 'double', cycles)}\n}}\n"
        for n, cycles in enumerate([100, 300])
    )
    call = "  %r = f32[512,512]{1,0} conditional(%x, %x, %x), branch_computations={%branch.0, %branch.1}"
    result = charged(call, branches)
    assert [cost.name for cost in result.costs] == ["f.1"]
    assert result.cycles == 300


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("  %f = f32[512,512]{1,0} fft(%x), fft_type=FFT", "no rule for a fft"),
        ('  %f = f32[4]{0} custom-call(%x), custom_call_target="TopK"', "no rule for a custom-call to 'TopK'"),
        ("  %s = (f32[4], f32[4], u32[]) send-start(%x)", "asynchronous send"),
        (START[0], "started but not done"),
        (START[1].replace("%s", "%x"), "its start is not in the same computation"),
        ("  %r = f32[4]{0} all-reduce(%x), replica_groups=?", "replica groups not understood"),
    ],
)
def test_what_the_model_does_not_know_is_an_error(line, message):
    with pytest.raises(UnknownInstruction, match=message):
        charged(line)


def test_a_hint_for_a_kernel_that_is_not_there():
    with pytest.raises(ValueError, match="no Pallas call named forward"):
        charged(fusion("f", "double", 1), kernels={"forward": KernelRun(iterations=(3,))})
