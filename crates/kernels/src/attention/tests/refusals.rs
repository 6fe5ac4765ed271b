use super::*;

const CU: [i32; 3] = [0, 3, 5];

fn shapes() -> Shapes<'static> {
    Shapes { q: [5, 4, 16], k: [5, 2, 16], v: [5, 2, 8], cu_seqlens_q: &CU, cu_seqlens_k: &CU, ..Shapes::default() }
}

fn fitting() -> Attention {
    Attention { heads: 4, kv_heads: 2, key_width: 16, value_width: 8, ..Attention::default() }
}

fn refusal(a: Attention, s: Shapes) -> String {
    a.check(&s).expect_err("refused").to_string()
}

#[test]
fn what_fits_is_accepted() {
    assert_eq!(fitting().check(&shapes()), Ok(()));
    let empty = Shapes { k: [0, 2, 16], v: [0, 2, 8], cu_seqlens_k: &[0, 0, 0], ..shapes() };
    assert_eq!(fitting().check(&empty), Ok(()), "no keys at all");
    let slopes = Shapes { alibi_slopes: Some(4), ..shapes() };
    assert_eq!(Attention { alibi: true, ..fitting() }.check(&slopes), Ok(()));
    assert_eq!(Attention { causal: true, ..fitting() }.check_cached(), Ok(()));
}

#[test]
fn refusals_name_what_is_wrong_and_what_would_be_right() {
    let a = fitting();
    let narrow = refusal(a, Shapes { k: [5, 2, 12], ..shapes() });
    assert!(narrow.contains("k has shape [5, 2, 12]") && narrow.contains("[5, 2, 16]"), "{narrow}");
    assert!(refusal(a, Shapes { v: [4, 2, 8], ..shapes() }).starts_with("v has shape"));
    assert!(refusal(a, Shapes { q: [5, 3, 16], ..shapes() }).starts_with("q has shape"));
    let heads = refusal(Attention { heads: 5, ..a }, shapes());
    assert!(heads.contains("5 query heads") && heads.contains("2 KV heads"), "{heads}");
    for dropout in [1.0, -0.1, 1.5, f64::NAN] {
        assert!(refusal(Attention { dropout, ..a }, shapes()).contains("[0, 1)"));
    }
    assert!(refusal(Attention { kv_heads: 0, ..a }, shapes()).contains("kv_heads is 0"));
    assert!(refusal(Attention { scale: f64::NAN, ..a }, shapes()).contains("scale"));
    assert!(refusal(Attention { softcap: Some(0.0), ..a }, shapes()).contains("softcap"));
    assert!(refusal(Attention { alibi: true, ..a }, shapes()).contains("slope"));
    assert!(refusal(a, Shapes { alibi_slopes: Some(4), ..shapes() }).contains("slope"));
    assert!(refusal(Attention { compute: Compute::Bf16, ..a }, Shapes { double: true, ..shapes() }).contains("bf16"));
}

#[test]
fn refusals_of_offsets_and_masks_name_them() {
    let a = fitting();
    for cu in [&[][..], &[0, 3][..], &[1, 3, 5][..], &[0, 3, 6][..], &[0, 6, 5][..]] {
        let said = refusal(a, Shapes { cu_seqlens_k: cu, ..shapes() });
        assert!(said.starts_with("cu_seqlens_k"), "{cu:?}: {said}");
    }
    assert!(refusal(a, Shapes { cu_seqlens_k: &[0, 5], ..shapes() }).contains("1 sequences"));
    let mask = BlockMask::new((2, 1), (16, 1), |_, _| true);
    let said = refusal(a, Shapes { block_mask: Some(&mask), ..shapes() });
    assert!(said.contains("[2, 16]") && said.contains("[3, 3]"), "{said}");
}

#[test]
fn caches_refuse_what_they_cannot_do() {
    let a = Attention { causal: true, ..fitting() };
    let refusal = |a: Attention| a.check_cached().expect_err("refused").to_string();
    assert!(refusal(Attention { causal: false, ..a }).contains("causal"));
    assert!(refusal(Attention { dropout: 0.1, ..a }).contains("dropout"));
    assert!(refusal(Attention { compute: Compute::Bf16, ..a }).contains("Bf16"));
}
