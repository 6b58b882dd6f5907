//! Whatever the order in which controllers and nodes act: a rollout keeps its bounds and ends.

use controllers::deployment::{condition, rollout::Bounds};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proptest::prelude::*;

use crate::world::{World, image};

#[derive(Clone, Debug)]
enum Act {
    Look,
    Set(usize),
    Node(usize),
    Image(u8),
    Bad,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => Just(Act::Look),
        4 => (0usize..4).prop_map(Act::Set),
        6 => (0usize..20).prop_map(Act::Node),
        1 => (1u8..4).prop_map(Act::Image),
        1 => Just(Act::Bad),
    ]
}

fn scaled() -> impl Strategy<Value = IntOrString> {
    prop_oneof![(0i32..4).prop_map(IntOrString::Int), (0u8..=100).prop_map(|p| IntOrString::String(format!("{p}%")))]
}

fn set_image(world: &mut World, image: &str) {
    world.edit(|d| d.spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.to_owned()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn a_rollout_keeps_its_bounds_and_ends(
        replicas in 1i32..9,
        surge in scaled(),
        unavailable in scaled(),
        acts in prop::collection::vec(act(), 1..150),
    ) {
        let mut world = World::new();
        world.edit(|d| {
            d.spec.replicas = Some(replicas);
            let rolling = d.spec.strategy.as_mut().unwrap().rolling_update.as_mut().unwrap();
            (rolling.max_surge, rolling.max_unavailable) = (Some(surge), Some(unavailable));
        });
        world.settle();
        let bounds = Bounds::of(&world.deployment);
        let (most, fewest) = (usize::try_from(bounds.most()).unwrap(), usize::try_from(bounds.fewest()).unwrap());
        for act in acts {
            match &act {
                Act::Look => drop(world.deployment()),
                Act::Set(index) => drop(world.set(*index)),
                Act::Node(index) => drop(world.node(*index)),
                Act::Image(n) => set_image(&mut world, &format!("v{n}")),
                Act::Bad => set_image(&mut world, "bad"),
            }
            prop_assert!(world.available() >= fewest, "{act:?} leaves {} available\n{}", world.available(), world.show());
            prop_assert!(world.active() <= most, "{act:?} leaves {} pods\n{}", world.active(), world.show());
        }
        set_image(&mut world, "v9");
        world.settle();
        let sizes: Vec<_> = world.sets.iter().filter(|s| s.spec.replicas != Some(0)).map(image).collect();
        prop_assert_eq!(sizes, vec!["v9"], "{}", world.show());
        prop_assert_eq!(world.available(), usize::try_from(replicas).unwrap());
        let status = world.deployment.status.clone().unwrap();
        let reason = condition::get(&status, condition::PROGRESSING).and_then(|c| c.reason.clone());
        prop_assert_eq!(reason.as_deref(), Some(condition::COMPLETE));
    }

    /// Scaling at any moment of a rollout still ends with what was asked for last.
    #[test]
    fn scaling_amid_a_rollout_ends_well(sizes in prop::collection::vec((0i32..12, 0usize..6), 1..6)) {
        let mut world = World::new();
        world.settle();
        set_image(&mut world, "v2");
        for (size, looks) in &sizes {
            for _ in 0..*looks {
                world.deployment();
                world.workloads();
            }
            world.edit(|d| d.spec.replicas = Some(*size));
        }
        world.settle();
        let wanted = usize::try_from(sizes.last().unwrap().0).unwrap();
        prop_assert_eq!(world.available(), wanted, "{}", world.show());
        prop_assert!(world.sets.iter().all(|s| image(s) == "v2" || s.spec.replicas == Some(0)), "{}", world.show());
    }
}
